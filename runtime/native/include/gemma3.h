/*
 * libgemma3: Gemma 3 bundles on any PJRT plugin, from any language.
 *
 * A bundle is a folder that gemma3-export wrote (artifacts/FORMAT.md). This library opens it on a
 * PJRT plugin and generates, scores, classifies and embeds. There is no Python and no model code
 * in the process: the programs of the bundle are the model. This interface is token ids;
 * gemma3_text.h makes them of text, chats and pictures, and text of them.
 *
 *     gemma3_error error;
 *     gemma3_options options = {sizeof options, "bundle"};
 *     gemma3_model *model;
 *     if (gemma3_open(&options, &model, &error)) { puts(error.message); return 1; }
 *     gemma3_prompt prompt = {tokens, count};
 *     gemma3_request request = {sizeof request, &prompt, sizeof prompt, 1, 64};
 *     gemma3_generate(model, &request, print_token, NULL, &error);
 *     gemma3_close(model);
 *
 * Contract
 * - Structs grow at their ends. One that is passed alone begins with `size`: set it to sizeof the
 *   struct and the rest to zero before filling in. One that comes in arrays has no such member: the
 *   size of an element stands beside the pointer (`prompt_size` beside `prompts`), and elements lie
 *   that far apart. Members beyond a given size, and zero members, have their neutral values; what
 *   is beyond the members that this library knows must be zero. gemma3_error alone never grows.
 * - Beside each pointer to numbers that are written stands a capacity, in elements. One that is too
 *   small is refused with GEMMA3_USAGE before anything is written or run, and `needed` of the error
 *   is what it must be; gemma3_model_sizes has what such counts are computed from.
 * - Every function that can fail returns a gemma3_status and, unless `error` is NULL, fills
 *   *error. There is no global or per-thread state to ask for. Nothing is thrown across the
 *   interface. Outputs are untouched when a call fails, but for arrays of numbers, parts of which
 *   may be filled by then.
 * - A gemma3_bundle and a gemma3_model may be used by several threads at once. A gemma3_session
 *   is for one thread at a time; only gemma3_session_cancel may be called from another one. Many
 *   sessions may share a model. Handles may be closed in any order: a model lives on inside until
 *   its last session is closed.
 * - Whatever can take long takes a gemma3_cancel, NULL for none; but gemma3_session_save and
 *   gemma3_session_restore do not.
 * - Nothing is printed. Remarks go to the `log` function of the options, if there is one.
 * - The environment is read during gemma3_find_plugin, gemma3_check and gemma3_open only: PATH,
 *   VIRTUAL_ENV, CONDA_PREFIX, HOME to find a plugin, XDG_CACHE_HOME and HOME to find the user's folder, and
 *   GEMMA3_KERNELS. Do not change the environment from another thread during these calls.
 * - What a call does to the process besides, and what turns it off:
 *   - While a plugin starts, the process has another list of environment variables: without
 *     XLA_FLAGS, because XLA ends the process for a flag that it does not know, with
 *     TF_CPP_MIN_LOG_LEVEL where it was not set, and with PJRT_NPROC where `threads` is. It is as
 *     before when the call returns. GEMMA3_KEEP_ENVIRONMENT: it is left alone.
 *   - When a program was compiled or loaded, freed memory goes back to the system: malloc_trim, and
 *     madvise on the pages of the plugin's code. GEMMA3_KEEP_MEMORY: neither.
 *   - Compiled programs, and once the key that guards them, are written to folders of the user.
 *     GEMMA3_NO_CACHE, GEMMA3_CACHE_READ_ONLY: nothing is, but by gemma3_compile.
 *   - A plugin and a library of kernels stay loaded until the process ends, with what threads the
 *     plugin keeps. `pjrt_api`, and "none" for `kernels`: nothing is loaded.
 *   No signal handler is installed, nor is a limit, locale, umask or allocator setting changed.
 * - Strings are UTF-8 and end with a NUL. Strings and bytes that a function gives are the
 *   caller's: pass them to gemma3_free.
 */
#ifndef GEMMA3_H_
#define GEMMA3_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define GEMMA3_API __attribute__((visibility("default")))
#else
#define GEMMA3_API
#endif

/* ---------------------------------------------------------------- versions and errors */

/* Grows when a function or struct member is added; the high half grows when one changes. */
#define GEMMA3_ABI_VERSION 0x00020000u

/* The version of the library, for example "0.1.0"; a constant, not to be freed. */
GEMMA3_API const char *gemma3_version(void);

/* GEMMA3_ABI_VERSION of the library: its high half must be that of the header compiled against. */
GEMMA3_API uint32_t gemma3_abi_version(void);

/*
 * What a call came to. gemma3-host ends with 0 for GEMMA3_OK, 1 for GEMMA3_FAILED,
 * GEMMA3_CANCELLED and GEMMA3_OUT_OF_MEMORY, and 2 for the others, which the user can put right.
 */
typedef int32_t gemma3_status;
enum {
  GEMMA3_OK = 0,
  GEMMA3_FAILED = 1,    /* the plugin or the system refused */
  GEMMA3_USAGE = 2,     /* the request or the bundle is at fault; the message has the remedy */
  GEMMA3_CANCELLED = 3, /* gemma3_session_cancel, gemma3_cancel_set, or the callback asked for it */
  GEMMA3_CONTEXT_FULL = 4,    /* a row has no room for so many tokens */
  GEMMA3_OUT_OF_MEMORY = 5,   /* of the host or of a device */
  GEMMA3_INTEGRITY = 6,       /* bytes have another digest, or a signature is not valid */
  GEMMA3_UNKNOWN_VERSION = 7, /* a format, API or program of a version that is not known here */
  GEMMA3_NOT_FOUND = 8,       /* no such bundle, file, plugin, mesh or platform */
};

/* Why a call failed: one line, cut off at the end of `message` if need be. */
typedef struct gemma3_error {
  gemma3_status status;
  char message[2036];
  uint64_t
      needed; /* elements that an output must have room for, where that was too small; else 0 */
} gemma3_error;

/* Frees a string or bytes that a function of this library gave; NULL is allowed. */
GEMMA3_API void gemma3_free(void *memory);

/*
 * Something to end calls with, from any thread; calls may share it. It is looked at between two
 * programs that are compiled or run, and between pieces of files: so a call ends, with
 * GEMMA3_CANCELLED, when the program that runs is done. It stays set until it is cleared.
 */
typedef struct gemma3_cancel gemma3_cancel;
GEMMA3_API gemma3_cancel *gemma3_cancel_new(void); /* NULL: out of memory */
GEMMA3_API void gemma3_cancel_set(gemma3_cancel *cancel);
GEMMA3_API void gemma3_cancel_clear(gemma3_cancel *cancel);
GEMMA3_API void gemma3_cancel_free(gemma3_cancel *cancel); /* not while a call or model has it */

/* ---------------------------------------------------------------- bundles, before anything is loaded */

/*
 * An open bundle: its manifest, file sizes and weight headers have been checked.
 *
 * What was checked is what is used. The folder and the weight files are opened once and kept open;
 * every other file is read whole, and nothing of it is used unless its bytes have the digest that
 * the manifest, as it was read at first, gives. Files of the folder may be renamed, replaced or
 * removed meanwhile. Two things remain to someone who can write into a weight file itself while a
 * model has it mapped: what is written shows in the results, and shortening the file ends the
 * process with SIGBUS. GEMMA3_COPY_WEIGHTS is safe from both.
 */
typedef struct gemma3_bundle gemma3_bundle;

/* Opens the bundle in folder `path`. Reads the manifest and the headers of the weight files. */
GEMMA3_API gemma3_status gemma3_bundle_open(const char *path, gemma3_bundle **bundle,
                                            gemma3_error *error);

/*
 * What the manifest says, as JSON with these members:
 *   format_version, abstract, architecture, name, dtype, parameters, vocab_size, sliding_window,
 *   max_position_embeddings, bos_token_id, pad_token_id, eos_token_ids, labels, embedding_size,
 *   layers, width, heads: of the model where it says so, else 0,
 *   score_outputs: what gemma3_score can give, "hidden_states" and "attentions" or none,
 *   platforms: [name], meshes: [{name, devices, axes: [{name, size}]}],
 *   buckets: [{mesh, platform, program, batch, tokens, cache, variant}],
 *   tokenizer: null or {path, kind, add_bos, add_eos, chat_template, prompts}, where prompts is
 *     null or {path, bytes} of the task prompts of an embedding model,
 *   vision: null or {image_size, channels, mean, std, tokens_per_image, soft_token_size,
 *     begin_token_id, soft_token_id, end_token_id},
 *   weights_bytes, quantization (null or the manifest's record), versions.
 */
GEMMA3_API gemma3_status gemma3_bundle_info(const gemma3_bundle *bundle, char **json,
                                            gemma3_error *error);

/*
 * The contents of file `path` of the manifest (for example the tokenizer's), once its SHA-256 has
 * been compared. `*count` bytes, and a NUL after them that is not counted.
 */
GEMMA3_API gemma3_status gemma3_bundle_file(const gemma3_bundle *bundle, const char *path,
                                            uint8_t **bytes, size_t *count, gemma3_error *error);

/*
 * GEMMA3_OK when the owner of the public key in PEM file `key` (an elliptic curve: P-256, P-384 or
 * P-521) signed the bundle as it is (gemma3-bundle sign): the manifest that was opened, and every
 * file. Reads all of them. GEMMA3_INTEGRITY, saying why, when not; GEMMA3_USAGE for a signature with
 * a certificate, and where the library was built without OpenSSL.
 */
GEMMA3_API gemma3_status gemma3_bundle_verify_signature(const gemma3_bundle *bundle,
                                                        const char *key, gemma3_cancel *cancel,
                                                        gemma3_error *error);

/* Closes a bundle; NULL is allowed. Models that were opened with it keep what they need. */
GEMMA3_API void gemma3_bundle_close(gemma3_bundle *bundle);

/* ---------------------------------------------------------------- opening a model */

/* How important a remark is, the most important first. */
enum {
  GEMMA3_LOG_ERROR = 1,   /* something failed that no call tells of, such as the second of two
                             programs that are compiled at once */
  GEMMA3_LOG_WARNING = 2, /* it goes on, but not as asked for or not as fast as it could */
  GEMMA3_LOG_INFO = 3,    /* what was opened, and which programs were compiled */
  GEMMA3_LOG_DEBUG = 4,   /* each program that was loaded, each session's shape */
};

/* Told of remarks, from any thread, one at a time for each model. `message` is one line. */
typedef void (*gemma3_log_fn)(void *user, int32_t level, const char *message);

/* Flags of gemma3_options. */
enum {
  GEMMA3_NO_CACHE = 1,        /* neither read nor write compiled programs */
  GEMMA3_CACHE_READ_ONLY = 2, /* read compiled programs, but write none on first use */
  GEMMA3_VERIFY = 4,          /* compare the SHA-256 of every file of the bundle first */
  GEMMA3_COPY_WEIGHTS = 8,    /* copy the weights into memory of the process instead of mapping the
                                 files, which nobody can change then; with GEMMA3_VERIFY, a
                                 signature or a pin the digest is that of the copy. Takes as much memory as
                                 the files, where mapped pages are shared and can be given back */
  GEMMA3_KEEP_ENVIRONMENT =
      16,                  /* leave the environment alone while the plugin starts: XLA_FLAGS and
                                   what XLA prints are then the caller's business */
  GEMMA3_KEEP_MEMORY = 32, /* leave freed memory and pages of code to the allocator and system */
};

/* How to open a model. */
typedef struct gemma3_options {
  size_t size;
  const char *bundle;    /* folder of the bundle; NULL when `opened` has it */
  const char *plugin;    /* path of a PJRT plugin; NULL: gemma3_find_plugin */
  const char *mesh;      /* a mesh of the bundle, for example "2x4"; NULL: as gemma3_open says */
  const char *platform;  /* "cpu", "cuda" or "tpu"; NULL: the plugin's */
  const char *cache_dir; /* of compiled programs; NULL: "compiled" in the bundle's folder, or
                                 where that is not the user's, in gemma3-export of the user's cache.
                                 Only what this user compiled is loaded (FORMAT.md) */
  const char *client_options; /* for the plugin, "name=value,name=value"; NULL: none. For example
                                 "preallocate=false" for CUDA. Values that look like integers,
                                 fractions or true and false are passed as such. */
  const char *kernels;        /* a shared library of kernels for programs of the variant "kernels",
                                 or "none"; NULL: what GEMMA3_KERNELS names, else
                                 libgemma3_kernels.so beside this library. Portable programs run
                                 where there is none, or none that the plugin can use */
  gemma3_log_fn log;          /* NULL: no remarks */
  void *log_user;
  uint64_t flags;                /* GEMMA3_NO_CACHE, ... */
  const char *manifest_sha256;   /* 64 hexadecimal digits that the bytes of manifest.json must have,
                                  compared before they are parsed; NULL: any. With GEMMA3_VERIFY they
                                  vouch for every file, without it for all but the weights */
  const char *require_signature; /* PEM file of the public key whose owner must have signed the
                                  bundle as it is, as in gemma3_bundle_verify_signature; NULL: none.
                                  Reads every file, as GEMMA3_VERIFY does */
  const gemma3_bundle *opened; /* the bundle, already open, in place of `bundle`: what was verified
                                  of it, and its tokenizer, are then those of the model. It may be
                                  closed before the model */
  gemma3_cancel *cancel;       /* ends opening, and every later call of the model and its sessions,
                                  while it is set; NULL: nothing does. Must outlive the model */
  const void *pjrt_api; /* the `const PJRT_Api *` of a plugin that is linked into the process or
                                 that the caller loaded, in place of `plugin`; NULL: none. Flags in
                                 XLA_FLAGS are hidden from it only where it has not read them yet */
  int32_t log_level;    /* the least important level that `log` is told; 0: GEMMA3_LOG_INFO */
  uint32_t threads;     /* most threads of the host that compile, and that a CPU plugin
                                 computes with; 0: one for each core. Other plugins have no such
                                 setting, which a warning says */
} gemma3_options;

/*
 * The plugin that gemma3_open takes for `platform` when none is named. Looks through the Python
 * environment: VIRTUAL_ENV, CONDA_PREFIX, that of python3 on PATH, that of this library, then the
 * system's and the user's. No Python is run. For "cpu" it looks for xla_cpu_pjrt and
 * lammps_jax_pjrt_cpu, for "cuda" for jax-cuda13-pjrt and jax-cuda12-pjrt, for "tpu" for libtpu, in
 * this order. NULL is the first of tpu, cuda, cpu whose plugin and hardware are there.
 */
GEMMA3_API gemma3_status gemma3_find_plugin(const char *platform, char **path, gemma3_error *error);

/*
 * Whether gemma3_open would succeed, answered before any weight or program is loaded: GEMMA3_OK, or
 * the failure that opening would end with. Checks the bundle, the plugin's API version, the
 * StableHLO version it accepts, and its devices. Programs may be newer than the plugin: it reads
 * those whose operations it knows, and `stablehlo` beside `stablehlo_current` tells. `*report`, unless `report` is NULL, is JSON in
 * either case, NULL when memory ran out:
 *   loads: bool, problem: string or null, bundle, mesh, platform,
 *   plugin: {path, api, stablehlo_current, stablehlo_minimum, platform, version} or null,
 *   devices: {kind, count, needed} or null,
 *   programs, stablehlo: version of the programs, weights_bytes, cache_bytes: of one row of the
 *   largest cache,
 *   compiled: {fingerprint, folder, programs: how many of them are compiled},
 *   kernels: null where no program calls C++ kernels, else {library: path or null where there is
 *   none, programs: how many can be taken, of: how many there are, problem: string or null}.
 */
GEMMA3_API gemma3_status gemma3_check(const gemma3_options *options, char **report,
                                      gemma3_error *error);

/* A bundle on the devices of one mesh. */
typedef struct gemma3_model gemma3_model;

/*
 * Opens a model: starts the plugin and puts the weights on the devices. On CPU they are mapped from
 * the file and not copied wherever a device's part lies in one piece. Programs are compiled when
 * first needed, or taken from the compiled cache.
 *
 * Where no mesh is named it is the largest of the bundle's that the plugin has devices for; on CPU,
 * where devices beyond the first are virtual and share its cores, the first mesh of one device, else
 * the first.
 */
GEMMA3_API gemma3_status gemma3_open(const gemma3_options *options, gemma3_model **model,
                                     gemma3_error *error);

/* Closes a model; NULL is allowed. */
GEMMA3_API void gemma3_close(gemma3_model *model);

/* gemma3_bundle_info of its bundle, with these members more: mesh, platform, plugin, devices. */
GEMMA3_API gemma3_status gemma3_model_info(const gemma3_model *model, char **json,
                                           gemma3_error *error);

/* Sizes of a model, to be computed with. 0: the bundle does not do that, or does not say. */
typedef struct gemma3_sizes {
  size_t size;
  int64_t vocab_size;
  int64_t sliding_window;
  int64_t layers, width, heads; /* of hidden states and attentions */
  int64_t labels;               /* classes of gemma3_classify */
  int64_t embedding_size;       /* of gemma3_embed */
  int64_t image_size, channels; /* of `pixels` */
  int64_t tokens_per_image, soft_token_size;
  int64_t batch;              /* most rows of a session */
  int64_t positions;          /* most tokens of a row that is generated */
  int64_t image_positions;    /* the same for prompts with images */
  int64_t stepping_positions; /* the same with log-probabilities, or by gemma3_session_decode */
  int64_t score_positions, classify_positions, embed_positions; /* most tokens of a text */
  int64_t devices;
} gemma3_sizes;

/* Fills the members of *sizes that lie within its `size`. */
GEMMA3_API gemma3_status gemma3_model_sizes(const gemma3_model *model, gemma3_sizes *sizes,
                                            gemma3_error *error);

/*
 * Counts and times so far, as JSON: open_s, variant: "kernels" once a program that calls C++
 * kernels was loaded, else "portable", weights: {bytes, mapped_bytes, copied_bytes},
 * programs: {compiled, loaded, written, compile_s, load_s}, cache: {fingerprint, folder, state: one
 * sentence on why compiled programs were or were not used}, calls, donated_in_place (calls whose
 * cache came back in the buffers it went in with; counted where the plugin tells).
 */
GEMMA3_API gemma3_status gemma3_model_stats(const gemma3_model *model, char **json,
                                            gemma3_error *error);

/*
 * Compiles all programs of the model's mesh that are not compiled yet and keeps them under
 * `cache_dir`, whatever the flags say. `*written`, unless NULL, is the number of files written.
 */
GEMMA3_API gemma3_status gemma3_compile(gemma3_model *model, uint32_t *written,
                                        gemma3_cancel *cancel, gemma3_error *error);

/* ---------------------------------------------------------------- requests */

/*
 * How tokens are drawn; all zero is greedy. The noise depends on seed and position alone, so
 * the same seed gives the same text whatever the batch, chunks and mesh.
 */
typedef struct gemma3_sampling {
  float temperature; /* 0: the likeliest token; top_k to seed play no part */
  int32_t top_k;     /* 0: off */
  float top_p;       /* 0 and 1: off */
  float min_p;       /* 0: off */
  uint32_t seed;
  float
      repetition_penalty; /* of tokens that are in the text already, at any temperature: logits are
                               divided by it, negative ones multiplied; 0 and 1: off */
} gemma3_sampling;

/*
 * A prompt: token ids, and the images whose soft tokens are among them. `pixels` are normalised
 * floats [images,3,image_size,image_size], planes in the order of the bundle's `channels`; `tokens`
 * has tokens_per_image times soft_token_id for each image.
 */
typedef struct gemma3_prompt {
  const int32_t *tokens;
  size_t count;
  const float *pixels; /* NULL without images */
  size_t images;
} gemma3_prompt;

/* Why a row got no further token. */
enum {
  GEMMA3_FINISH_NONE = 0,   /* more will follow */
  GEMMA3_FINISH_STOP = 1,   /* the token is one of the stop tokens */
  GEMMA3_FINISH_LENGTH = 2, /* max_new_tokens are there */
};

/* A new token. Valid during the call of the callback only. */
typedef struct gemma3_token {
  size_t size;
  uint32_t prompt; /* which prompt of the request, or row of the session */
  uint32_t index;  /* which token of its new ones, from 0 */
  int32_t token;
  int32_t finish;     /* GEMMA3_FINISH_... */
  uint32_t top_count; /* likeliest tokens where this one was drawn, as many as were asked for */
  const int32_t *top_tokens;  /* [top_count], likeliest first, ties by id; NULL: not asked for */
  const double *top_logprobs; /* [top_count], natural logarithms */
} gemma3_token;

/* What a callback answers. */
enum {
  GEMMA3_CONTINUE = 0,
  GEMMA3_FINISH_ROW = 1, /* no more tokens of this row: for stop texts. Those drawn by the same
                            call on the device are not told, though they are in the cache. */
  GEMMA3_CANCEL = 2,     /* end the call with GEMMA3_CANCELLED, once the callback has been told of
                            what the same call on the device drew: so what is in the cache of a
                            session has been told, unless its row was finished */
};

/*
 * Told of each new token, in order for each row, on the thread of the call. May call
 * functions of the model but none of the session that it is called for.
 */
typedef int32_t (*gemma3_token_fn)(void *user, const gemma3_token *token);

/* What to do with the prompts of a request; for gemma3_prepare and gemma3_check_request. */
enum {
  GEMMA3_TASK_GENERATE = 0,
  GEMMA3_TASK_SCORE = 1,
  GEMMA3_TASK_CLASSIFY = 2,
  GEMMA3_TASK_EMBED = 3,
};

/* Flags of gemma3_request and gemma3_session_options. */
enum {
  GEMMA3_IGNORE_EOS = 1, /* go on after the model's own end tokens */
  GEMMA3_IMAGES = 2,     /* sessions: prompts may have images */
};

/* Work of the group of rows that a prompt ran in. */
typedef struct gemma3_timing {
  uint64_t prefill_tokens;
  uint64_t decode_tokens; /* tokens after the first of each row */
  double prefill_s;       /* until the first token of each row was there */
  double decode_s;
  double first_token_at; /* of CLOCK_MONOTONIC, in seconds */
} gemma3_timing;

/* What to generate. Prompts beyond the largest batch run one group of rows after another. */
typedef struct gemma3_request {
  size_t size;
  const gemma3_prompt *prompts;
  size_t prompt_size, prompt_count;
  uint32_t max_new_tokens; /* of each prompt, at least 1 */
  uint32_t logprobs;       /* likeliest tokens to report with each token; 0: none. More than 0
                              takes one call of a program for each token. */
  const gemma3_sampling *sampling; /* NULL: greedy */
  size_t sampling_size;
  size_t sampling_count;      /* 0 or 1: one for all prompts; else one for each */
  const int32_t *stop_tokens; /* besides the model's end tokens */
  size_t stop_count;
  uint32_t chunk; /* most tokens of a row in one call on the device; 0: as many as the program
                     gives. Small: the callback is told earlier, and can cancel earlier. */
  int32_t task;   /* GEMMA3_TASK_...; gemma3_prepare and gemma3_check_request look at it */
  uint64_t flags; /* GEMMA3_IGNORE_EOS */
  gemma3_cancel *cancel;  /* looked at by gemma3_generate and gemma3_prepare; NULL: none */
  gemma3_timing *timings; /* [prompt_count], filled by gemma3_generate; NULL: not asked for */
  size_t timing_size, timing_capacity;
} gemma3_request;

/*
 * GEMMA3_OK when the model can serve the request, else for example GEMMA3_USAGE or
 * GEMMA3_CONTEXT_FULL, saying what would fit.
 */
GEMMA3_API gemma3_status gemma3_check_request(const gemma3_model *model,
                                              const gemma3_request *request, gemma3_error *error);

/*
 * Compiles, or loads from the compiled cache, the programs that the request begins with, as many at
 * a time as there are cores. Not needed: whatever is missing is prepared when it is needed.
 */
GEMMA3_API gemma3_status gemma3_prepare(gemma3_model *model, const gemma3_request *request,
                                        gemma3_error *error);

/*
 * Generates. `on_token` is told of each token. Same tokens as gemma3-run for the same bundle, mesh
 * and parameters.
 */
GEMMA3_API gemma3_status gemma3_generate(gemma3_model *model, const gemma3_request *request,
                                         gemma3_token_fn on_token, void *user, gemma3_error *error);

/* Labels of a text: as many as it has tokens. */
typedef struct gemma3_labels {
  const int32_t *ids;
  size_t count;
} gemma3_labels;

enum { GEMMA3_NO_LABEL = -100 }; /* a place that is not scored */

/* What to score, and where the results go: for text after text. */
typedef struct gemma3_scoring {
  size_t size;
  const gemma3_prompt *prompts; /* each of at least 2 tokens */
  size_t prompt_size, prompt_count;
  const gemma3_labels
      *labels; /* label i + 1 is what should follow token i; the first is not scored,
                                  GEMMA3_NO_LABEL leaves one out. NULL: the tokens themselves */
  size_t label_size, label_count; /* label_count: prompt_count, or 0 */
  float *logprobs; /* [count - 1] of each text: the natural logarithm of the probability of label
                      i + 1 given tokens 0 to i; 0 where one is left out */
  size_t logprobs_capacity;
  double
      *losses; /* [prompt_count], or NULL: means of the negative ones over the labels that count */
  size_t losses_capacity;
  float *hidden_states; /* [layers + 1,count,width] of each text, or NULL: the embeddings, what each
                           layer but the last gives, the last after its norm */
  size_t hidden_states_capacity;
  float *attentions; /* [layers,heads,count,count] of each text, or NULL: what the token of a row
                        gives to that of a column */
  size_t attentions_capacity;
  gemma3_cancel *cancel; /* NULL: none */
} gemma3_scoring;

/*
 * Log-probabilities of given texts; hidden states and attentions of bundles that were exported with
 * them (`score_outputs`). Everything is checked before anything is compiled.
 */
GEMMA3_API gemma3_status gemma3_score(gemma3_model *model, const gemma3_scoring *scoring,
                                      gemma3_error *error);

/* Texts that are read and not continued, by gemma3_classify and gemma3_embed. */
typedef struct gemma3_texts {
  size_t size;
  const gemma3_prompt *prompts;
  size_t prompt_size, prompt_count;
  gemma3_cancel *cancel; /* NULL: none */
} gemma3_texts;

/*
 * Scores [prompt_count,labels] of the classes for given texts (padding at their ends is left out).
 */
GEMMA3_API gemma3_status gemma3_classify(gemma3_model *model, const gemma3_texts *texts,
                                         float *scores, size_t capacity, gemma3_error *error);

/* Vectors [prompt_count,embedding_size], of length 1, of given texts. */
GEMMA3_API gemma3_status gemma3_embed(gemma3_model *model, const gemma3_texts *texts,
                                      float *vectors, size_t capacity, gemma3_error *error);

/* Soft tokens [images,tokens_per_image,soft_token_size] of pixels as in gemma3_prompt. */
GEMMA3_API gemma3_status gemma3_encode_images(gemma3_model *model, const float *pixels,
                                              size_t images, float *soft_tokens, size_t capacity,
                                              gemma3_cancel *cancel, gemma3_error *error);

/* ---------------------------------------------------------------- sessions */

/*
 * Rows that are generated together, each at its own position, with their cache on the devices.
 * Between calls a row has `position` tokens in its cache and, unless it was only fed, a last token,
 * drawn but not yet in the cache.
 */
typedef struct gemma3_session gemma3_session;

/* How to open a session. */
typedef struct gemma3_session_options {
  size_t size;
  uint32_t rows;      /* 1 to the largest batch; the smallest bucket that holds them is taken */
  uint32_t positions; /* tokens a row must have room for; 0: as many as the bundle has */
  uint32_t logprobs;  /* as in gemma3_request */
  uint32_t flags;     /* GEMMA3_IGNORE_EOS, GEMMA3_IMAGES */
  const gemma3_sampling *sampling; /* as in gemma3_request */
  size_t sampling_size;
  size_t sampling_count; /* 0 or 1: one for all rows; else one for each */
  const int32_t *stop_tokens;
  size_t stop_count;
} gemma3_session_options;

GEMMA3_API gemma3_status gemma3_session_open(gemma3_model *model,
                                             const gemma3_session_options *options,
                                             gemma3_session **session, gemma3_error *error);

/* Closes a session; NULL is allowed. */
GEMMA3_API void gemma3_session_close(gemma3_session *session);

/* What a row does from a prefill on, until another prefill says otherwise. */
typedef struct gemma3_row_options {
  uint32_t max_new_tokens;         /* 0: that of the prefill */
  uint32_t flags;                  /* GEMMA3_IGNORE_EOS; looked at with stop_tokens only */
  const gemma3_sampling *sampling; /* one; NULL: as the row had */
  size_t sampling_size;
  const int32_t *stop_tokens; /* besides the model's end tokens; NULL: as the row had */
  size_t stop_count;          /* may be 0, for none */
} gemma3_row_options;

/* Flags of gemma3_prefill. */
enum {
  GEMMA3_NO_DRAW = 1, /* put the tokens into the cache and draw none: the text goes on with the next
                         prefill */
};

/* What to feed to the rows of a session. */
typedef struct gemma3_prefill {
  size_t size;
  const gemma3_prompt *prompts; /* of rows 0, 1, ...; one of no tokens leaves its row as it is */
  size_t prompt_size, prompt_count;
  uint32_t
      max_new_tokens; /* of each row, the one that is drawn included; replaces what it was still
                              to get. At least 1, but with GEMMA3_NO_DRAW, when none is to follow */
  uint32_t flags;     /* GEMMA3_NO_DRAW */
  const gemma3_row_options
      *rows; /* NULL, or one for each prompt; those of rows without a prompt are
                                     not looked at */
  size_t row_size, row_count;
  gemma3_cancel *cancel; /* NULL: none */
} gemma3_prefill;

/*
 * Takes in the prompts and draws the next token of their rows, of which `on_token` (NULL: nobody) is
 * told. A row that has text already goes on from there: its last token, where it has one, is fed
 * first, then the prompt. When the call fails or is cancelled after it began to feed the prompts,
 * their rows are empty; the others are as before. Not so where the callback cancels it: the prompts
 * are in by then, and the tokens that were told are the rows' last ones.
 */
GEMMA3_API gemma3_status gemma3_session_prefill(gemma3_session *session,
                                                const gemma3_prefill *prefill,
                                                gemma3_token_fn on_token, void *user,
                                                gemma3_error *error);

/* One step of the rows of a session. */
typedef struct gemma3_step {
  size_t size;
  const int32_t *tokens; /* [rows] to be fed; NULL: the last token of each row */
  size_t token_count;    /* rows, or 0 */
  int32_t *next;         /* [rows] that are drawn; NULL: not asked for */
  size_t next_capacity;
  float *logits; /* [rows,vocab_size] they were drawn from; NULL: not asked for */
  size_t logits_capacity;
  gemma3_cancel *cancel; /* NULL: none */
} gemma3_step;

/*
 * One step of every row that has text: feeds a token and draws the next. Stop tokens and
 * max_new_tokens play no part. Needs a decode program.
 */
GEMMA3_API gemma3_status gemma3_session_decode(gemma3_session *session, const gemma3_step *step,
                                               gemma3_error *error);

/*
 * Goes on until every row has its max_new_tokens, met a stop token or was finished. `chunk` as in
 * gemma3_request. After GEMMA3_CANCELLED the session can go on where it was: the tokens told before
 * and after are those of a call that nobody cancelled.
 */
GEMMA3_API gemma3_status gemma3_session_generate(gemma3_session *session, uint32_t chunk,
                                                 gemma3_token_fn on_token, void *user,
                                                 gemma3_cancel *cancel, gemma3_error *error);

/*
 * Ends the call of the session that is running, or the next one, with GEMMA3_CANCELLED as soon as
 * its program on the device is done. From any thread.
 */
GEMMA3_API void gemma3_session_cancel(gemma3_session *session);

/* Makes row `row` empty, to be begun again; -1: all of them. */
GEMMA3_API gemma3_status gemma3_session_reset(gemma3_session *session, int32_t row,
                                              gemma3_error *error);

/*
 * Cuts a row off at `position`: it has that many tokens, no last token and none still to get, and the
 * next prefill goes on from there. 0 empties it. Local layers keep only the newest `sliding_window`
 * keys, in rings. So a row can go back anywhere while all its text lies within the window, and by at
 * most the last token once the rings are full; `least` of gemma3_row says how far. GEMMA3_USAGE, and
 * the row is as it was, for anything before that or beyond the row's own position. Not within an
 * image: what is left of it has seen what is cut off.
 */
GEMMA3_API gemma3_status gemma3_session_truncate(gemma3_session *session, uint32_t row,
                                                 uint32_t position, gemma3_error *error);

/* Where a row is. */
typedef struct gemma3_row {
  int32_t position;  /* tokens in its cache; 0: empty */
  int32_t token;     /* its last token, not yet fed; -1: none */
  int32_t remaining; /* tokens it is still to get */
  int32_t least;     /* position, 0 apart, from which on gemma3_session_truncate can cut it off */
} gemma3_row;

/* Fills rows [count], `row_size` bytes each; count is at most `rows` of the session. */
GEMMA3_API gemma3_status gemma3_session_rows(const gemma3_session *session, gemma3_row *rows,
                                             size_t row_size, size_t count, gemma3_error *error);

/*
 * As JSON: rows, batch, cache, cache_bytes, prefill_tokens, prefill_s, decode_tokens, decode_s,
 * calls, donated_in_place.
 */
GEMMA3_API gemma3_status gemma3_session_stats(const gemma3_session *session, char **json,
                                              gemma3_error *error);

/*
 * The session as bytes: cache, rows, sampling and stop tokens. They can be restored in another
 * process, on another plugin and on another mesh of the same bundle.
 */
GEMMA3_API gemma3_status gemma3_session_save(gemma3_session *session, uint8_t **bytes,
                                             size_t *count, gemma3_error *error);

/*
 * A session from what gemma3_session_save gave. GEMMA3_INTEGRITY for damaged bytes,
 * GEMMA3_UNKNOWN_VERSION for those of another version of this library.
 */
GEMMA3_API gemma3_status gemma3_session_restore(gemma3_model *model, const uint8_t *bytes,
                                                size_t count, gemma3_session **session,
                                                gemma3_error *error);

#ifdef __cplusplus
}
#endif

#endif /* GEMMA3_H_ */
