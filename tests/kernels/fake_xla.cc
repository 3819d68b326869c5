#include "fake_xla.h"

#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <deque>
#include <mutex>
#include <new>
#include <thread>
#include <utility>

struct XLA_FFI_Error {
  std::string message;
};

namespace fake {
namespace {

constexpr int64_t kMostBytes = 1 << 20;  // more would take the time of many calls

std::atomic<long> allocations{-1};
thread_local bool spared = false;  // what is ours does not run out of memory

struct Sparing {
  bool before = std::exchange(spared, true);
  ~Sparing() { spared = before; }
};

// The threads of the device, for the life of the process.
class Pool {
 public:
  Pool() {
    for (int i = 0; i < 3; ++i) std::thread([this] { work(); }).detach();
  }
  void add(XLA_FFI_Task *task, void *data) {
    const std::lock_guard<std::mutex> lock(mutex_);
    waiting_.emplace_back(task, data);
    ++unfinished_;
    added_.notify_one();
  }
  // Tasks that come late run while their call is long over: only now and then are they waited for.
  void wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    finished_.wait(lock, [&] { return unfinished_ == 0; });
  }

 private:
  void work() {
    for (;;) {
      std::unique_lock<std::mutex> lock(mutex_);
      added_.wait(lock, [&] { return !waiting_.empty(); });
      const auto [task, data] = waiting_.front();
      waiting_.pop_front();
      lock.unlock();
      task(data);
      lock.lock();
      if (--unfinished_ == 0) finished_.notify_all();
    }
  }
  std::mutex mutex_;
  std::condition_variable added_, finished_;
  std::deque<std::pair<XLA_FFI_Task *, void *>> waiting_;
  size_t unfinished_ = 0;
};

Pool &pool() {
  static Pool &made = *new Pool;
  return made;
}

int threads = 2;
bool refuses = false;

XLA_FFI_Error *create(XLA_FFI_Error_Create_Args *args) {
  const Sparing sparing;
  return new XLA_FFI_Error{args->message};
}
void message(XLA_FFI_Error_GetMessage_Args *args) { args->message = args->error->message.c_str(); }
void destroy(XLA_FFI_Error_Destroy_Args *args) { delete args->error; }
XLA_FFI_Error *schedule(XLA_FFI_ThreadPool_Schedule_Args *args) {
  const Sparing sparing;
  if (refuses) return new XLA_FFI_Error{"no pool"};
  pool().add(args->task, args->data);
  return nullptr;
}
XLA_FFI_Error *count(XLA_FFI_ThreadPool_NumThreads_Args *args) {
  *args->num_threads = threads;
  return nullptr;
}

XLA_FFI_Api api_here() {
  XLA_FFI_Api api = {};
  api.struct_size = XLA_FFI_Api_STRUCT_SIZE;
  api.api_version = {XLA_FFI_Api_Version_STRUCT_SIZE, nullptr, XLA_FFI_API_MAJOR,
                     XLA_FFI_API_MINOR};
  api.XLA_FFI_Error_Create = create;
  api.XLA_FFI_Error_GetMessage = message;
  api.XLA_FFI_Error_Destroy = destroy;
  api.XLA_FFI_ThreadPool_Schedule = schedule;
  api.XLA_FFI_ThreadPool_NumThreads = count;
  return api;
}

// The structs that a call frame points to.
struct Frame {
  explicit Frame(const Call &call) {
    buffers.reserve(call.arguments.size() + call.results.size());
    for (const Array &array : call.arguments) arguments.push_back(add(array));
    for (const Array &array : call.results) results.push_back(add(array));
    for (const Attribute &attribute : call.attributes) add(attribute);
    argument_types.assign(arguments.size(), XLA_FFI_ArgType_BUFFER);
    result_types.assign(results.size(), XLA_FFI_RetType_BUFFER);
    for (auto &name : names) name_pointers.push_back(&name);
    frame.struct_size = XLA_FFI_CallFrame_STRUCT_SIZE;
    frame.api = &api;
    frame.ctx = reinterpret_cast<XLA_FFI_ExecutionContext *>(this);
    frame.stage = call.stage;
    frame.args = {XLA_FFI_Args_STRUCT_SIZE, nullptr, static_cast<int64_t>(arguments.size()),
                  argument_types.data(), arguments.data()};
    frame.rets = {XLA_FFI_Rets_STRUCT_SIZE, nullptr, static_cast<int64_t>(results.size()),
                  result_types.data(), results.data()};
    frame.attrs = {
        XLA_FFI_Attrs_STRUCT_SIZE, nullptr,      static_cast<int64_t>(names.size()), types.data(),
        name_pointers.data(),      values.data()};
  }

  void *add(const Array &array) {
    buffers.push_back({XLA_FFI_Buffer_STRUCT_SIZE, nullptr, array.type, array.data,
                       static_cast<int64_t>(array.dims.size()),
                       const_cast<int64_t *>(array.dims.data())});
    return &buffers.back();
  }
  void add(const Attribute &attribute) {
    names.push_back({attribute.name.data(), attribute.name.size()});
    if (attribute.is_text) {
      types.push_back(XLA_FFI_AttrType_STRING);
      texts.push_back({attribute.text.data(), attribute.text.size()});
      values.push_back(&texts.back());
    } else {
      types.push_back(XLA_FFI_AttrType_SCALAR);
      scalars.push_back({attribute.type, const_cast<char *>(attribute.value)});
      values.push_back(&scalars.back());
    }
  }

  XLA_FFI_Api api = api_here();
  std::vector<XLA_FFI_Buffer> buffers;
  std::vector<void *> arguments, results, values;
  std::vector<XLA_FFI_ArgType> argument_types;
  std::vector<XLA_FFI_RetType> result_types;
  std::vector<XLA_FFI_AttrType> types;
  std::deque<XLA_FFI_ByteSpan> names, texts;
  std::deque<XLA_FFI_Scalar> scalars;
  std::vector<XLA_FFI_ByteSpan *> name_pointers;
  XLA_FFI_CallFrame frame = {};
};

}  // namespace

void *allocate_or_throw(size_t size) {
  if (!spared && allocations.load() >= 0 && allocations.fetch_sub(1) == 0) throw std::bad_alloc();
  if (void *memory = std::malloc(size == 0 ? 1 : size)) return memory;
  throw std::bad_alloc();
}

int bytes_of(XLA_FFI_DataType type) {
  switch (type) {
    case XLA_FFI_DataType_S8:
    case XLA_FFI_DataType_U8:
    case XLA_FFI_DataType_PRED: return 1;
    case XLA_FFI_DataType_BF16:
    case XLA_FFI_DataType_F16: return 2;
    case XLA_FFI_DataType_F64:
    case XLA_FFI_DataType_S64: return 8;
    default: return 4;
  }
}

int64_t Array::bytes() const {
  int64_t bytes = bytes_of(type);
  for (const int64_t size : dims) {
    if (size == 0) return 0;
  }
  for (const int64_t size : dims) {
    if (size < 0 || __builtin_mul_overflow(bytes, size, &bytes)) return -1;
  }
  return bytes;
}

bool Array::allocate(size_t over) {
  const int64_t size = bytes();
  if (size < 0 || size > kMostBytes) return false;
  // The end is where a sanitizer watches.
  const size_t wanted = static_cast<size_t>(size) + over;
  void *made = nullptr;
  if (posix_memalign(&made, 64, wanted == 0 ? 1 : wanted) != 0) return false;
  memory.reset(static_cast<char *>(made), std::free);
  data = memory.get() + over;
  return true;
}

std::string make(const Call &call, const Circumstances &circumstances) {
  Frame frame(call);
  pool();  // made before memory can run out: its threads are not what is tested
  threads = circumstances.threads;
  refuses = circumstances.refuses;
  allocations = circumstances.allocations;
  XLA_FFI_Error *error = call.handler(&frame.frame);
  if (circumstances.allocations >= 0) pool().wait();  // late tasks free what they came with
  allocations = -1;
  if (error == nullptr) return "";
  const std::string said = error->message;
  delete error;
  return said.empty() ? "(no message)" : said;
}

}  // namespace fake

void *operator new(size_t size) { return fake::allocate_or_throw(size); }
void *operator new[](size_t size) { return fake::allocate_or_throw(size); }
void operator delete(void *memory) noexcept { std::free(memory); }
void operator delete[](void *memory) noexcept { std::free(memory); }
void operator delete(void *memory, size_t) noexcept { std::free(memory); }
void operator delete[](void *memory, size_t) noexcept { std::free(memory); }
