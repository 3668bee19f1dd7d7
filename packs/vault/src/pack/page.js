// The vault page: keys with their versions, and what became of the last look at the folder.

const REFRESH_MS = 3000;

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith('on')) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

export function render(root, api) {
  const note = make('p', { role: 'status' });
  const facts = make('p');
  const rows = make('tbody');
  const head = make('thead', {}, make('tr', {}, ...['Key', 'Version', 'State', 'Algorithm', 'Public half'].map((title) => make('th', {}, title))));
  const reload = make('button', { type: 'button', onclick: look }, 'Look at the folder now');
  root.append(make('h1', {}, 'Vault'), facts, note, make('table', {}, head, rows), reload);

  function row(key) {
    const half = key.public_key ? make('details', {}, make('summary', {}, 'show'), make('pre', {}, key.public_key)) : '–';
    return make('tr', {}, ...[key.name, `v${key.version}`, key.state, key.algorithm, half].map((cell) => make('td', {}, cell)));
  }

  let shown = '';
  async function show() {
    const now = await api.get('/v1/vault/keys');
    const memory = Math.round(now.passwords.memory_bytes / 1048576);
    const folder = now.folder ? `Keys are in ${now.folder}, read ${now.loads} times.` : 'No key folder is configured: passwords only.';
    facts.textContent = `${folder} Password hashes may hold ${memory} MiB together; ${now.passwords.run_together} of bcrypt were run in company.`;
    note.textContent = now.problem ? `The keys that were read before stay in force: ${now.problem}` : '';
    const text = JSON.stringify(now.keys);
    if (text === shown) return; // what is unfolded stays so
    shown = text;
    rows.replaceChildren(...now.keys.map(row));
    reload.hidden = !now.folder;
  }

  async function look() {
    try {
      await api.post('/v1/vault/keys/reload', {});
      await show();
    } catch (error) {
      note.textContent = error.message;
    }
  }

  const refresh = () => show().catch((error) => { note.textContent = error.message; });
  refresh();
  const timer = setInterval(refresh, REFRESH_MS);
  return () => clearInterval(timer);
}
