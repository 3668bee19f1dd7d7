// The photos page: both phases, what failed, and the thumbnails. Text nodes only.

const STATUSES = ['PENDING_CONVERSION', 'CONVERTING', 'DONE', 'FAILED', 'MISSING'];
const REFRESH_MS = 1000;

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith('on')) node.addEventListener(key.slice(2), value);
    else if (value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

function span(ms) {
  if (ms === null || ms === undefined) return '–';
  const seconds = Math.ceil(ms / 1000);
  if (seconds < 90) return `${seconds} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

export function render(root, api) {
  const note = make('p', { role: 'status' });
  const path = make('input', { type: 'text', name: 'path', placeholder: '/absolute/path/of/a/folder', 'aria-label': 'Folder', required: '' });
  const form = make('form', { class: 'line', onsubmit: scan }, path, make('button', { type: 'submit' }, 'Scan'));
  const phases = make('div', { class: 'cards' });
  const bar = make('progress', { max: '1', value: '0', 'aria-label': 'Converted' });
  const filter = make('select', { 'aria-label': 'Status', onchange: () => list(true) },
    make('option', { value: '' }, 'all'), ...STATUSES.map((status) => make('option', { value: status }, status)));
  const grid = make('div', { class: 'thumbs' });
  const more = make('button', { type: 'button', onclick: () => list(false), hidden: '' }, 'More');
  root.append(make('h1', {}, 'Photos'), form, note, phases, bar, make('label', { class: 'line' }, 'Show ', filter), grid, more);

  let next = null;
  // Somebody pages: the list is left alone.
  let paged = false;
  let shownDone = -1;

  async function scan(event) {
    event.preventDefault();
    try {
      const answer = await api.post('/v1/photos/scan', { path: path.value });
      note.textContent = answer.already_running ? 'This folder is being scanned already.' : 'The scan has begun.';
    } catch (error) {
      note.textContent = error.message;
    }
  }

  function card(title, ...lines) {
    return make('section', { class: 'card' }, make('h3', {}, title), ...lines.map((line) => make('p', {}, line)));
  }

  async function status() {
    const now = await api.get('/v1/photos/status');
    const { scan: seen, counts } = now;
    const total = counts.PENDING_CONVERSION + counts.CONVERTING + counts.DONE + counts.FAILED;
    bar.max = Math.max(total, 1);
    bar.value = counts.DONE + counts.FAILED;
    phases.replaceChildren(
      card('1. Scan', `${seen.state}${seen.path ? `: ${seen.path}` : ''}`,
        `${seen.files ?? 0} files, ${seen.photos ?? 0} photos, ${seen.new ?? 0} new, ${seen.changed ?? 0} changed`,
        `${seen.problems ?? 0} paths passed over, ${seen.missing ?? 0} vanished`),
      card('2. Convert', `${counts.PENDING_CONVERSION} wait, ${counts.CONVERTING} run, ${counts.DONE} done, ${counts.FAILED} failed`,
        counts.PENDING_CONVERSION + counts.CONVERTING === 0 ? 'nothing left to convert' : `${now.rate} per second, ${span(now.eta_ms)} left`,
        `${now.concurrency} at a time (${now.converter}), ${Math.round(now.memory_bytes / 1048576)} MiB`));
    const done = counts.DONE + counts.FAILED;
    if (done !== shownDone && !paged) {
      shownDone = done;
      await list(true);
    }
  }

  function tile(photo) {
    const title = photo.message ? `${photo.path}\n${photo.class}: ${photo.message}` : photo.path;
    const picture = photo.status === 'DONE'
      ? make('img', { src: `/v1/photos/${photo.id}/thumbnail?size=160`, alt: photo.path, loading: 'lazy' })
      : make('div', { class: 'blank' }, photo.class ? `${photo.status}: ${photo.class}` : photo.status);
    const name = photo.path.split('/').pop();
    return make('figure', { title }, picture, make('figcaption', {}, name));
  }

  async function list(fresh) {
    const query = new URLSearchParams({ limit: '60' });
    if (filter.value) query.set('status', filter.value);
    if (!fresh && next) query.set('cursor', next);
    const page = await api.get(`/v1/photos?${query}`);
    const tiles = page.photos.map(tile);
    if (fresh) grid.replaceChildren(...tiles);
    else grid.append(...tiles);
    next = page.next_cursor;
    paged = !fresh;
    more.hidden = next === null;
  }

  const refresh = () => status().catch((error) => { note.textContent = error.message; });
  refresh();
  const timer = setInterval(refresh, REFRESH_MS);
  return () => clearInterval(timer);
}
