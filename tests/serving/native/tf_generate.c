// Generates greedily from a SavedModel: tf_generate FOLDER NEW_TOKENS ID... prints the new ids,
// then the finish reason. Exit status 1 with TensorFlow's message on stderr when it is refused.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tf_model.h"

#define COUNT(array) (int)(sizeof(array) / sizeof(*(array)))

static int fail(const char *what, const char *error) {
  fprintf(stderr, "%s: %s\n", what, error);
  return 1;
}

static TF_Tensor *output(tf_model *model, TF_Tensor **results, const char *key) {
  int count;
  const tf_port *ports = tf_model_ports(model, "generate", 1, &count);
  for (int i = 0; i < count; i++)
    if (strcmp(ports[i].key, key) == 0) return results[i];
  return NULL;
}

int main(int argc, char **argv) {
  char error[4096] = "";
  if (argc < 4) return fail("usage", "tf_generate FOLDER NEW_TOKENS ID...");
  tf_model *model = tf_model_open(argv[1], error, sizeof error);
  if (model == NULL) return fail("open", error);

  int32_t length = argc - 3, limit = atoi(argv[2]), stop = -1, top_k = 0;
  float temperature = 0, top_p = 1, min_p = 0, penalty = 1;
  int64_t seed = 0, row[] = {1}, one[] = {1, 1}, all[] = {1, length};
  int32_t *tokens = malloc(sizeof(int32_t) * (size_t)length);
  for (int i = 0; i < length; i++) tokens[i] = atoi(argv[i + 3]);
  tf_input inputs[] = {
      {"tokens", TF_INT32, 2, all, tokens, sizeof(int32_t) * (size_t)length},
      {"lengths", TF_INT32, 1, row, &length, sizeof length},
      {"max_new_tokens", TF_INT32, 1, row, &limit, sizeof limit},
      {"stop_tokens", TF_INT32, 2, one, &stop, sizeof stop},
      {"temperature", TF_FLOAT, 1, row, &temperature, sizeof temperature},
      {"top_k", TF_INT32, 1, row, &top_k, sizeof top_k},
      {"top_p", TF_FLOAT, 1, row, &top_p, sizeof top_p},
      {"min_p", TF_FLOAT, 1, row, &min_p, sizeof min_p},
      {"seed", TF_INT64, 1, row, &seed, sizeof seed},
      {"repetition_penalty", TF_FLOAT, 1, row, &penalty, sizeof penalty},
  };
  TF_Tensor *results[8];
  int code = tf_model_run(model, "generate", inputs, COUNT(inputs), results, error, sizeof error);
  free(tokens);
  if (code == TF_OK) {
    int32_t count = *(int32_t *)TF_TensorData(output(model, results, "counts"));
    int32_t *made = TF_TensorData(output(model, results, "tokens"));
    TF_TString *reason = TF_TensorData(output(model, results, "finish_reasons"));
    for (int i = 0; i < count; i++) printf("%d ", made[i]);
    printf("%.*s\n", (int)TF_StringGetSize(reason), TF_StringGetDataPointer(reason));
    for (int i = 0; i < 3; i++) TF_DeleteTensor(results[i]);
  }
  tf_model_close(model);
  return code == TF_OK ? 0 : fail("generate", error);
}
