// Tokens from a bundle in Node, with koffi (npm install koffi).
//
//     node generate.mjs build/native/lib/libgemma3.so bundle 2,17,18 16
import koffi from 'koffi';

const [library, bundle, ids, count] = process.argv.slice(2);
const gemma3 = koffi.load(library);

// Structs may be shorter than the header's: their sizes say so, and the rest has its defaults.
const GemmaError = koffi.struct('gemma3_error', { status: 'int32', message: koffi.array('char', 2036, 'String'), needed: 'uint64' });
const Options = koffi.struct('gemma3_options', {
  size: 'size_t', bundle: 'const char *', plugin: 'const char *', mesh: 'const char *',
});
const Prompt = koffi.struct('gemma3_prompt', { tokens: 'int32 *', count: 'size_t' });
const Request = koffi.struct('gemma3_request', {
  size: 'size_t', prompts: 'gemma3_prompt *', prompt_size: 'size_t', prompt_count: 'size_t',
  max_new_tokens: 'uint32', logprobs: 'uint32', sampling: 'void *', sampling_size: 'size_t',
  sampling_count: 'size_t', stop_tokens: 'int32 *',
  stop_count: 'size_t', chunk: 'uint32', task: 'int32', flags: 'uint64',
});
const Token = koffi.struct('gemma3_token', {
  size: 'size_t', prompt: 'uint32', index: 'uint32', token: 'int32', finish: 'int32',
});
const OnToken = koffi.proto('int32 on_token(void *user, const gemma3_token *token)');
koffi.opaque('gemma3_model');

const open = gemma3.func(
  'int32 gemma3_open(gemma3_options *options, _Out_ gemma3_model **model, _Out_ gemma3_error *error)');
const generate = gemma3.func(
  'int32 gemma3_generate(gemma3_model *model, gemma3_request *request, on_token *on_token, ' +
  'void *user, _Out_ gemma3_error *error)');
const close = gemma3.func('void gemma3_close(gemma3_model *model)');

const IGNORE_EOS = 1;

function check(status, error) {
  if (status === 0) return;
  console.error(`error: ${error.message}`);
  process.exit(status);
}

const error = {};
const model = [null];
check(open({ size: koffi.sizeof(Options), bundle }, model, error), error);

const tokens = Int32Array.from(ids.split(',').map(Number));
const request = {
  size: koffi.sizeof(Request),
  prompts: { tokens, count: tokens.length },
  prompt_size: koffi.sizeof(Prompt),
  prompt_count: 1,
  max_new_tokens: Number(count),
  flags: IGNORE_EOS,
};
const found = [];
function take(user, token) {
  found.push(koffi.decode(token, Token).token);
  return 0;
}
check(generate(model[0], request, take, null, error), error);
close(model[0]);
console.log(found.join(' '));
