// See tf_model.h. The MetaGraphDef is read with a few lines of protobuf's wire format: fields are
// (number << 3 | type), lengths and numbers are varints; numbers of fields are those of
// tensorflow/core/protobuf/meta_graph.proto.
#include "tf_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
  const uint8_t *at, *end;
} bytes;

typedef struct {
  char *name;
  tf_port *ports[2];
  int counts[2];
} signature;

struct tf_model {
  TF_Graph *graph;
  TF_Session *session;
  signature *signatures;
  int count;
};

enum { SIGNATURE_DEF = 5, MAP_KEY = 1, MAP_VALUE = 2, NODE = 1, DTYPE = 2 };

static uint64_t varint(bytes *in) {
  uint64_t value = 0;
  for (int shift = 0; in->at < in->end && shift < 64; shift += 7) {
    uint8_t byte = *in->at++;
    value |= (uint64_t)(byte & 0x7f) << shift;
    if (!(byte & 0x80)) return value;
  }
  in->at = in->end;
  return 0;
}

// The next field: its number, and its contents or value. 0 at the end.
static int next_field(bytes *in, bytes *contents, uint64_t *value) {
  if (in->at >= in->end) return 0;
  uint64_t tag = varint(in), length = 0;
  *contents = (bytes){in->at, in->at};
  switch (tag & 7) {
    case 0: *value = varint(in); return (int)(tag >> 3);
    case 1: length = 8; break;
    case 2: length = varint(in); break;
    case 5: length = 4; break;
    default: in->at = in->end; return 0;
  }
  if (length > (uint64_t)(in->end - in->at)) length = (uint64_t)(in->end - in->at);
  *contents = (bytes){in->at, in->at + length};
  in->at += length;
  return (int)(tag >> 3);
}

static char *text(bytes in) { return strndup((const char *)in.at, (size_t)(in.end - in.at)); }

static void entry(bytes in, bytes *key, bytes *value) {
  bytes contents;
  uint64_t number;
  int field;
  *key = *value = (bytes){in.end, in.end};
  while ((field = next_field(&in, &contents, &number))) {
    if (field == MAP_KEY) *key = contents;
    if (field == MAP_VALUE) *value = contents;
  }
}

static tf_port read_port(bytes in) {
  tf_port port = {0};
  bytes key, info, contents;
  uint64_t number = 0;
  int field;
  entry(in, &key, &info);
  port.key = text(key);
  while ((field = next_field(&info, &contents, &number))) {
    if (field == DTYPE) port.dtype = (int)number;
    if (field != NODE) continue;
    port.node = text(contents);  // "node:0"
    char *colon = strrchr(port.node, ':');
    if (colon != NULL) {
      port.index = atoi(colon + 1);
      *colon = 0;
    }
  }
  return port;
}

static int by_key(const void *a, const void *b) {
  return strcmp(((const tf_port *)a)->key, ((const tf_port *)b)->key);
}

static signature read_signature(bytes in) {
  signature found = {0};
  bytes key, definition, contents;
  uint64_t number;
  int field;
  entry(in, &key, &definition);
  found.name = text(key);
  while ((field = next_field(&definition, &contents, &number))) {
    if (field != 1 && field != 2) continue;  // inputs, outputs
    int side = field - 1, count = ++found.counts[side];
    found.ports[side] = realloc(found.ports[side], (size_t)count * sizeof(tf_port));
    found.ports[side][count - 1] = read_port(contents);
  }
  for (int side = 0; side < 2; side++)
    if (found.counts[side])
      qsort(found.ports[side], (size_t)found.counts[side], sizeof(tf_port), by_key);
  return found;
}

static void read_signatures(tf_model *model, bytes in) {
  bytes contents;
  uint64_t number;
  int field;
  while ((field = next_field(&in, &contents, &number))) {
    if (field != SIGNATURE_DEF) continue;
    model->signatures = realloc(model->signatures, (size_t)(model->count + 1) * sizeof(signature));
    model->signatures[model->count++] = read_signature(contents);
  }
}

tf_model *tf_model_open(const char *folder, char *error, size_t error_size) {
  const char *tags[] = {"serve"};
  TF_Status *status = TF_NewStatus();
  TF_SessionOptions *options = TF_NewSessionOptions();
  TF_Buffer *meta = TF_NewBuffer();
  tf_model *model = calloc(1, sizeof *model);
  model->graph = TF_NewGraph();
  model->session =
      TF_LoadSessionFromSavedModel(options, NULL, folder, tags, 1, model->graph, meta, status);
  if (TF_GetCode(status) == TF_OK) {
    const uint8_t *data = meta->data;
    read_signatures(model, (bytes){data, data + meta->length});
  } else {
    snprintf(error, error_size, "%s", TF_Message(status));
    TF_DeleteGraph(model->graph);
    free(model);
    model = NULL;
  }
  TF_DeleteBuffer(meta);
  TF_DeleteSessionOptions(options);
  TF_DeleteStatus(status);
  return model;
}

void tf_model_close(tf_model *model) {
  TF_Status *status = TF_NewStatus();
  TF_DeleteSession(model->session, status);
  TF_DeleteStatus(status);
  TF_DeleteGraph(model->graph);
  for (int i = 0; i < model->count; i++) {
    for (int side = 0; side < 2; side++) {
      for (int p = 0; p < model->signatures[i].counts[side]; p++) {
        free(model->signatures[i].ports[side][p].key);
        free(model->signatures[i].ports[side][p].node);
      }
      free(model->signatures[i].ports[side]);
    }
    free(model->signatures[i].name);
  }
  free(model->signatures);
  free(model);
}

const tf_port *tf_model_ports(const tf_model *model, const char *name, int outputs, int *count) {
  for (int i = 0; i < model->count; i++) {
    if (strcmp(model->signatures[i].name, name) != 0) continue;
    *count = model->signatures[i].counts[outputs];
    return model->signatures[i].ports[outputs];
  }
  *count = 0;
  return NULL;
}

// The input of a port, checked as TensorFlow Serving checks it. NULL with a text in `error`.
static const tf_input *find(const tf_port *port, const tf_input *inputs, int count, char *error,
                            size_t error_size) {
  for (int i = 0; i < count; i++) {
    if (strcmp(inputs[i].key, port->key) != 0) continue;
    if ((int)inputs[i].dtype == port->dtype) return &inputs[i];
    snprintf(error, error_size, "%s: expected dtype %d, got %d", port->key, port->dtype,
             (int)inputs[i].dtype);
    return NULL;
  }
  snprintf(error, error_size, "%s: expected an input of this name, got none", port->key);
  return NULL;
}

static TF_Tensor *to_tensor(const tf_input *input) {
  TF_Tensor *tensor = TF_AllocateTensor(input->dtype, input->dims, input->rank, input->bytes);
  if (input->bytes) memcpy(TF_TensorData(tensor), input->data, input->bytes);
  return tensor;
}

static TF_Output place(const tf_model *model, const tf_port *port) {
  return (TF_Output){TF_GraphOperationByName(model->graph, port->node), port->index};
}

int tf_model_run(tf_model *model, const char *name, const tf_input *inputs, int count,
                 TF_Tensor **results, char *error, size_t error_size) {
  int wanted = 0, made = 0, code = TF_INVALID_ARGUMENT, given = 0;
  const tf_port *in = tf_model_ports(model, name, 0, &wanted);
  const tf_port *out = tf_model_ports(model, name, 1, &made);
  if (out == NULL) {
    snprintf(error, error_size, "signature_name: expected a signature of the model, got %s", name);
    return code;
  }
  if (count > wanted) {
    snprintf(error, error_size, "inputs: expected %d, got %d", wanted, count);
    return code;
  }
  TF_Output *feeds = calloc((size_t)wanted + 1, sizeof *feeds);
  TF_Output *fetches = calloc((size_t)made + 1, sizeof *fetches);
  TF_Tensor **values = calloc((size_t)wanted + 1, sizeof *values);
  for (; given < wanted; given++) {
    const tf_input *input = find(&in[given], inputs, count, error, error_size);
    if (input == NULL) break;
    feeds[given] = place(model, &in[given]);
    values[given] = to_tensor(input);
  }
  for (int i = 0; i < made; i++) fetches[i] = place(model, &out[i]);
  if (given == wanted) {
    TF_Status *status = TF_NewStatus();
    TF_SessionRun(model->session, NULL, feeds, values, wanted, fetches, results, made, NULL, 0,
                  NULL, status);
    code = TF_GetCode(status);
    if (code != TF_OK) snprintf(error, error_size, "%s", TF_Message(status));
    TF_DeleteStatus(status);
  }
  for (int i = 0; i < given; i++) TF_DeleteTensor(values[i]);
  free(values);
  free(feeds);
  free(fetches);
  return code;
}
