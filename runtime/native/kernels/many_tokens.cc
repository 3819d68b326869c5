// Attention of many tokens.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "attention_call.h"
#include "share.h"

namespace gemma3 {
namespace {

namespace ffi = xla::ffi;

// Query rows of a task, where there are so many, and tokens at least.
constexpr size_t kRowsOfTask = 64, kTokensOfTask = 16;

// What a thread works in, kept from task to task: memory made again is cleared page by page.
struct Workspace {
  Aligned<float> numbers;
  Aligned<int32_t> places;
  Aligned<char> memory;
};

// The queries of some tokens of a row that share a head of the cache.
class Block {
 public:
  Block(const Call &call, size_t head, size_t first, size_t tokens, Workspace &room)
      : call_(call),
        row_(head / call.kv_heads),
        head_(head),
        first_(first),
        tokens_(tokens),
        room_(room) {
    const size_t lanes = fastest_layer_forms().lanes;
    const size_t panels = (call.group() * tokens + lanes - 1) / lanes, rows = panels * lanes;
    room.numbers.reserve(2 * rows * call.head);
    room.places.reserve(2 * rows);
    int32_t *places = room.places.data(), *groups = places + rows;
    for (size_t q = 0; q < rows; ++q) {
      const size_t token = std::min(first + q % tokens, call.tokens - 1);
      places[q] = static_cast<int32_t>(token);
      groups[q] = call.groups == nullptr ? 0 : call.groups[row_ * call.tokens + token];
      float *query = room.numbers.data() + q * call.head;
      if (q < call.group() * tokens && first + q % tokens < call.valid(row_)) {
        call.make_query(row_, token, query_head(q), query);
      } else {
        std::fill_n(query, call.head, 0.0f);
      }
    }
    task_ = {
        call.head,  panels,   room.numbers.data(),
        places,     groups,   call.groups == nullptr ? nullptr : call.groups + row_ * call.tokens,
        call.reach, call.cap, call.int8};
  }

  void attend(Own &own) {
    std::vector<Stretch> stretches = held(call_, head_, first_);
    const int64_t reached = static_cast<int64_t>(first_) - call_.reach + 1;
    const size_t begin = static_cast<size_t>(std::max<int64_t>(0, reached));
    const size_t valid = call_.valid(row_);
    const size_t end = call_.groups == nullptr ? std::min(first_ + tokens_, valid) : valid;
    stretches.push_back(own.stretch(head_, begin, end - begin));
    const LayerForms &forms = fastest_layer_forms();
    room_.memory.reserve(forms.chunk_memory(task_));
    float *mixed = room_.numbers.data() + task_.panels * forms.lanes * call_.head;
    forms.chunk(task_, stretches.data(), stretches.size(), room_.memory.data(), mixed);
    for (size_t q = 0; q < call_.group() * tokens_; ++q) {
      const size_t token = first_ + q % tokens_;
      if (token >= valid) continue;
      std::copy_n(mixed + q * call_.head, call_.head,
                  call_.result +
                      ((row_ * call_.tokens + token) * call_.heads + query_head(q)) * call_.head);
    }
  }

 private:
  size_t query_head(size_t q) const { return head_ % call_.kv_heads * call_.group() + q / tokens_; }

  const Call &call_;
  size_t row_, head_, first_, tokens_;
  Workspace &room_;
  ChunkTask task_;
};

}  // namespace

void attend_many_tokens(const Call &call, Own &own, ffi::ThreadPool &pool) {
  const size_t wanted = kRowsOfTask / call.group() / kTokensOfTask * kTokensOfTask;
  const size_t rows = std::max(wanted, kTokensOfTask);
  const size_t heads = call.rows * call.kv_heads, blocks = (call.tokens + rows - 1) / rows;
  share(pool, heads * blocks, [&](size_t i) {
    const size_t head = i % heads, first = (blocks - 1 - i / heads) * rows;
    if (first >= call.valid(head / call.kv_heads)) return;
    static thread_local Workspace room;
    Block(call, head, first, rows, room).attend(own);
  });
  for (size_t row = 0; row < call.rows; ++row) {
    const size_t width = call.heads * call.head, valid = call.valid(row);
    std::fill_n(call.result + (row * call.tokens + valid) * width, (call.tokens - valid) * width,
                0.0f);
  }
}

}  // namespace gemma3
