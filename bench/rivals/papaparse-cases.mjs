// Papa Parse's own tables of cases as JSON: node papaparse-cases.mjs tests/test-cases.js > cases.json
//
// The tables are literals in a file that wants a browser, so they are cut out and evaluated alone.
// Only cases of texts and plain settings are kept; what a function or a stream decides is not a format.
import { readFileSync } from 'node:fs';

const text = readFileSync(process.argv[2], 'utf8');
const begin = text.indexOf('var CORE_PARSER_TESTS');
const end = text.indexOf('var PARSE_ASYNC_TESTS');
if (begin < 0 || end < begin) throw new Error('the tables are not where they were');
const globals = 'const RECORD_SEP="\\x1e",UNIT_SEP="\\x1f",BASE_PATH="",FILES_ENABLED=false,XHR_ENABLED=false,assert={},describe=()=>{};' +
	'const Papa={RECORD_SEP,UNIT_SEP,LocalChunkSize:0};';
const tables = new Function(`${globals}${text.slice(begin, end)}; return {CORE_PARSER_TESTS, PARSE_TESTS};`)();
const isPlain = value => JSON.stringify(value) !== undefined &&
	!(value && typeof value === 'object' && Object.values(value).some(one => typeof one === 'function' || one instanceof RegExp));
const all = [];
for (const [table, cases] of Object.entries(tables)) {
	for (const { description, input, config = {}, expected, disabled } of cases) {
		if (disabled || typeof input !== 'string' || !isPlain(config) || !Array.isArray(expected?.data)) continue;
		all.push({ table, description, input, config, data: expected.data, errors: (expected.errors ?? []).length });
	}
}
console.log(JSON.stringify(all, null, 1));
