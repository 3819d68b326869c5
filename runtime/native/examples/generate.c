/*
 * Tokens from a bundle in C.
 *
 *     cc generate.c -I build/native/include -L build/native/lib -lgemma3 \
 *       -Wl,-rpath,$PWD/build/native/lib -o generate
 *     ./generate bundle 2,17,18 16
 */
#include <gemma3.h>
#include <stdio.h>
#include <stdlib.h>

#define MOST_TOKENS 4096

/* Called for each token as it comes. */
static int32_t print_token(void *user, const gemma3_token *token) {
  (void)user;
  printf("%s%d", token->index ? " " : "", token->token);
  fflush(stdout);
  return GEMMA3_CONTINUE;
}

static size_t parse(const char *text, int32_t *tokens) {
  size_t count = 0;
  for (char *end; *text && count < MOST_TOKENS; text = *end ? end + 1 : end) {
    tokens[count++] = (int32_t)strtol(text, &end, 10);
  }
  return count;
}

int main(int argc, char **argv) {
  if (argc != 4) return fprintf(stderr, "usage: generate BUNDLE 2,17,18 COUNT\n"), 2;
  gemma3_error error;
  gemma3_options options = {sizeof options, argv[1]};
  gemma3_model *model;
  if (gemma3_open(&options, &model, &error)) {
    fprintf(stderr, "error: %s\n", error.message);
    return error.status;
  }

  static int32_t tokens[MOST_TOKENS];
  gemma3_prompt prompt = {tokens, parse(argv[2], tokens)};
  gemma3_request request = {sizeof request, &prompt, sizeof prompt, 1, (uint32_t)atoi(argv[3])};
  request.flags = GEMMA3_IGNORE_EOS;
  request.chunk = 8; /* tokens of one call on the device: small, to print soon */
  gemma3_timing timing;
  request.timings = &timing;
  request.timing_size = sizeof timing;
  request.timing_capacity = 1;
  gemma3_status status = gemma3_generate(model, &request, print_token, NULL, &error);
  if (status) {
    fprintf(stderr, "error: %s\n", error.message);
  } else {
    double rate = timing.decode_s > 0 ? (double)timing.decode_tokens / timing.decode_s : 0;
    printf("\n");
    fprintf(stderr, "%.1f tokens per second\n", rate);
  }
  gemma3_close(model);
  return status;
}
