// The page of loads: what runs, what has ended, what was refused. Text nodes only.

const REFRESH_MS = 1000;
const number = new Intl.NumberFormat('en');
// A figure and its unit stay in one line.
const GAP = '\u00a0';

function span(ms) {
  if (ms === null || ms === undefined) return '–';
  const seconds = ms / 1000;
  if (seconds < 90) return `${seconds.toFixed(1)}${GAP}s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)}${GAP}min` : `${(seconds / 3600).toFixed(1)}${GAP}h`;
}

function size(bytes) {
  if (bytes < 1024) return `${bytes}${GAP}B`;
  const units = ['KiB', 'MiB', 'GiB', 'TiB'];
  let value = bytes;
  let unit = '';
  for (const next of units) {
    if (value < 1024) break;
    value /= 1024;
    unit = next;
  }
  return `${value.toFixed(1)}${GAP}${unit}`;
}

export function render(root, api) {
  const { el } = api;
  const note = el('p', { role: 'status' });
  const targets = el('div', { class: 'cards' });
  const head = el('tr', {}, ...['Load', 'Target', 'State', 'Stored', 'Rejected', 'Bytes', 'Rows/s', 'Left', 'Why'].map((title) => el('th', {}, title)));
  const body = el('tbody', {});
  const more = el('button', { type: 'button', hidden: '' }, 'More');
  more.addEventListener('click', () => list(true));
  const topics = el('tbody', {});
  const topicHead = el('tr', {}, ...['Consumer', 'Topic', 'Target', 'State', 'Partitions', 'Lag', 'Stored', 'Refused', 'Rows/s', 'Why'].map((title) => el('th', {}, title)));
  // Only where there is one.
  const consumers = el('section', { hidden: '' }, el('h2', {}, 'Consumers'), el('table', {}, el('thead', {}, topicHead), topics));
  root.append(el('h1', {}, 'Ingest'), note, targets, consumers, el('h2', {}, 'Loads'), el('table', {}, el('thead', {}, head), body), more);

  let next = null;
  // Somebody pages: the list is left alone.
  let paged = false;

  function card(target) {
    const columns = target.columns.map((column) => `${column.name} ${column.type}`).join(', ');
    return el('section', { class: 'card' }, el('h3', {}, target.name),
      el('p', {}, `${target.sink}: ${columns}`),
      el('p', {}, el('code', {}, `curl -T FILE -X POST ${location.origin}${target.post}`)));
  }

  function progress(load) {
    if (load.state !== 'running' || !load.bytes_total) return size(load.bytes);
    return el('span', {}, el('progress', { max: String(load.bytes_total), value: String(load.bytes), 'aria-label': 'Bytes taken' }),
      ` ${size(load.bytes)} of ${size(load.bytes_total)}`);
  }

  function row(load) {
    const rejected = load.rejects
      ? el('a', { href: load.rejects, download: `${load.load}.rejects.ndjson` }, number.format(load.rejected))
      : number.format(load.rejected);
    return el('tr', {}, el('td', {}, el('code', {}, load.load)), el('td', {}, load.target),
      el('td', {}, load.state), el('td', {}, number.format(load.stored)), el('td', {}, rejected),
      el('td', {}, progress(load)), el('td', {}, number.format(Math.round(load.rate))),
      el('td', {}, load.state === 'running' ? span(load.eta_ms) : `took${GAP}${span(load.elapsed_ms)}`),
      el('td', {}, load.error ?? ''));
  }

  function stands(of) {
    const why = of.error ?? '';
    return of.next_try_ms === null ? why : `${why} (tried again in ${span(of.next_try_ms)})`;
  }

  function consumer(of) {
    return el('tr', {}, el('td', {}, of.name), el('td', {}, of.topic), el('td', {}, of.target),
      el('td', {}, of.paused ? 'paused' : of.state), el('td', {}, number.format(of.partitions.length)),
      el('td', {}, of.lag === null ? '–' : number.format(of.lag)), el('td', {}, number.format(of.stored)),
      el('td', {}, number.format(of.rejected)), el('td', {}, number.format(Math.round(of.rate))), el('td', {}, stands(of)));
  }

  async function listen() {
    const page = await api.get('/v1/ingest/consumers');
    topics.replaceChildren(...page.consumers.map(consumer));
    consumers.hidden = page.consumers.length === 0;
  }

  async function list(older) {
    const query = new URLSearchParams({ limit: '50' });
    if (older && next) query.set('cursor', next);
    const page = await api.get(`/v1/ingest/loads?${query}`);
    const rows = page.loads.map(row);
    if (older) body.append(...rows);
    else body.replaceChildren(...rows);
    next = page.next_cursor;
    paged = older;
    more.hidden = next === null;
    note.textContent = page.loads.length === 0 ? 'No load yet.' : '';
  }

  const failed = (error) => { note.textContent = error.message; };
  api.get('/v1/ingest/targets').then((answer) => targets.replaceChildren(...answer.targets.map(card)), failed);
  list(false).catch(failed);
  listen().catch(failed);
  const timer = setInterval(() => {
    if (!paged) list(false).catch(failed);
    listen().catch(failed);
  }, REFRESH_MS);
  return () => clearInterval(timer);
}
