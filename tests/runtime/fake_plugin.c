/* A PJRT plugin that knows nothing but its attributes: the head of struct PJRT_Api. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

struct Version {
  size_t size;
  void *next;
  int major, minor;
};
struct Named {
  size_t size;
  void *next;
  const char *name;
  size_t name_size;
  int type;
  union {
    const char *string;
    int64_t number;
    const int64_t *list;
    float real;
    _Bool flag;
  } value;
  size_t value_size;
};
struct Attributes {
  size_t size;
  void *next;
  const struct Named *items;
  size_t count;
};
struct Api {
  size_t size;
  void *next;
  struct Version version;
  void *error[3];
  void *(*initialize)(void *);
  void *(*attributes)(void *);
};

static const int64_t current[] = {1, 14, 2}, least[] = {0, 9, 0};
static const struct Named items[] = {
    {sizeof(struct Named), 0, "stablehlo_current_version", 25, 2, {.list = current}, 3},
    {sizeof(struct Named), 0, "stablehlo_minimum_version", 25, 2, {.list = least}, 3},
    {sizeof(struct Named), 0, "vendor", 6, 0, {.string = "tests"}, 5},
    {sizeof(struct Named), 0, "xla_version", 11, 1, {.number = 2}, 1},
    {sizeof(struct Named), 0, "fast", 4, 4, {.flag = 1}, 1},
};

static void *initialize(void *arguments) {
#ifdef CRASHES
  abort();
#endif
#ifdef FAILS
  return arguments;
#endif
  return 0;
}
static void *attributes(void *arguments) {
  struct Attributes *out = arguments;
  out->items = items;
  out->count = sizeof items / sizeof *items;
  return 0;
}
static const struct Api api = {sizeof api, 0,          {sizeof(struct Version), 0, 0, 77},
                               {0},        initialize, attributes};
const struct Api *GetPjrtApi(void) { return &api; }
