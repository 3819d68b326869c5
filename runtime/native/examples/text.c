/*
 * Text in, text out, in C: how a bundle goes on from a text, or answers a question, as it comes.
 *
 *     cc text.c -I build/native/include -L build/native/lib -lgemma3 -o text
 *     ./text bundle "Once upon a time" 64
 *     ./text bundle "Who walked on the Moon first?" 64 chat
 */
#include <gemma3_text.h>
#include <stdio.h>
#include <stdlib.h>

/* Ends the program when a call failed. */
static void check(gemma3_status status, const gemma3_error *error) {
  if (status == GEMMA3_OK) return;
  fprintf(stderr, "error: %s\n", error->message);
  exit(status);
}

static void show(char *text, size_t length) {
  fwrite(text, 1, length, stdout);
  fflush(stdout);
  gemma3_free(text);
}

/* Called for each token: shows the text that it makes certain. */
static int32_t show_token(void *stream, const gemma3_token *token) {
  char *text;
  size_t length;
  if (token->finish == GEMMA3_FINISH_STOP) return GEMMA3_CONTINUE; /* an end token is no text */
  gemma3_status status = gemma3_text_stream_push(stream, token->token, &text, &length, NULL, NULL);
  if (status) return GEMMA3_CANCEL;
  show(text, length);
  return GEMMA3_CONTINUE;
}

int main(int argc, char **argv) {
  if (argc < 4) return fprintf(stderr, "usage: text BUNDLE TEXT COUNT [chat]\n"), 2;
  gemma3_error error;
  gemma3_options options = {sizeof options, argv[1]};
  gemma3_model *model;
  gemma3_tokenizer *tokenizer;
  gemma3_text_stream *stream;
  check(gemma3_open(&options, &model, &error), &error);
  check(gemma3_model_tokenizer(model, &tokenizer, &error), &error);
  check(gemma3_text_stream_open(tokenizer, NULL, &stream, &error), &error);

  int32_t *tokens, end = -1;
  size_t count;
  if (argc > 4) { /* a turn of a chat, which ends with <end_of_turn> */
    gemma3_message message = {"user", argv[2]};
    gemma3_chat chat = {sizeof chat, &message, sizeof message, 1};
    check(gemma3_chat_prompt(tokenizer, &chat, &tokens, &count, &error), &error);
    check(gemma3_tokenizer_token(tokenizer, "<end_of_turn>", &end, &error), &error);
  } else {
    check(gemma3_encode(tokenizer, argv[2], GEMMA3_TO_NUL, 0, &tokens, &count, &error), &error);
  }

  gemma3_prompt prompt = {tokens, count};
  gemma3_request request = {sizeof request};
  request.prompts = &prompt;
  request.prompt_size = sizeof prompt;
  request.prompt_count = 1;
  request.max_new_tokens = (uint32_t)atoi(argv[3]);
  request.stop_tokens = &end;
  request.stop_count = argc > 4;
  request.chunk = 8; /* tokens of one call on the device: small, to show soon */
  check(gemma3_generate(model, &request, show_token, stream, &error), &error);
  char *rest;
  check(gemma3_text_stream_flush(stream, &rest, &count, &error), &error);
  show(rest, count);
  printf("\n");

  gemma3_free(tokens);
  gemma3_text_stream_close(stream);
  gemma3_tokenizer_close(tokenizer);
  gemma3_close(model);
  return 0;
}
