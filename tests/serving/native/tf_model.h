// A SavedModel through TensorFlow's C API: signatures by name, no Python. For tests.
#ifndef TF_MODEL_H
#define TF_MODEL_H

#include <stddef.h>
#include <stdint.h>

#include "tensorflow/c/c_api.h"

typedef struct tf_model tf_model;

// A tensor of a signature: its key, and the node of the graph that has it.
typedef struct {
  char *key;
  char *node;
  int index;  // which output of the node
  int dtype;
} tf_port;

typedef struct {
  const char *key;
  TF_DataType dtype;
  int rank;
  const int64_t *dims;
  const void *data;
  size_t bytes;
} tf_input;

// Loads the version folder of a SavedModel. NULL with a text in `error` when it cannot.
tf_model *tf_model_open(const char *folder, char *error, size_t error_size);
void tf_model_close(tf_model *model);

// The ports of a signature, `outputs` 0 or 1, in the order of their keys. NULL: no such signature.
const tf_port *tf_model_ports(const tf_model *model, const char *signature, int outputs,
                              int *count);

// Calls a signature. `results` gets a tensor for each output port, to be deleted by the caller.
// Returns a TF_Code; what is not TF_OK has a text in `error` and no results.
int tf_model_run(tf_model *model, const char *signature, const tf_input *inputs, int count,
                 TF_Tensor **results, char *error, size_t error_size);

#endif
