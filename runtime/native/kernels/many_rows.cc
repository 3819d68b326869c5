#include "many_rows.h"

#include <algorithm>
#include <cstdint>

#include "memory.h"
#include "share.h"
#include "tiles.h"

namespace gemma3 {
namespace {

namespace ffi = xla::ffi;

// Rows of a task at most: what their panels take stays in a core's own cache while weights pass by.
constexpr size_t kRowsOfTask = 240;
// Fewer numbers than this are packed by the calling thread.
constexpr size_t kWorthPackingTogether = 1 << 16;

class ManyRows {
 public:
  ManyRows(Kind kind, size_t rows, size_t inputs, const std::vector<Matrix> &matrices)
      : kind_(kind),
        rows_(rows),
        inputs_(inputs),
        words_(inputs / tiles_.inputs_of_word),
        matrices_(matrices) {}

  void pack(ffi::ThreadPool &pool, const Operand &x) {
    const size_t count = (rows_ + tiles_.lanes - 1) / tiles_.lanes;
    panels_.resize(count * tiles_.lanes * words_);
    const auto task = [&](size_t index) {
      const size_t first = index * tiles_.lanes;
      const size_t rows = std::min(tiles_.lanes, rows_ - first);
      thread_local std::vector<float> room;
      tiles_.pack(x.read(first, rows, room), rows, inputs_, panel(first));
    };
    share_if(rows_ * inputs_ >= kWorthPackingTogether, pool, count, task);
  }

  void multiply(ffi::ThreadPool &pool) {
    const size_t outputs = outputs_of_all(matrices_);
    const size_t row_parts = (rows_ + kRowsOfTask - 1) / kRowsOfTask;
    const size_t rows_of_task = rows_of_each(row_parts);
    const Parts parts(matrices_, outputs_of_each(pool, outputs, row_parts));
    const auto task = [&](size_t index) {
      const auto [matrix, first, last] = parts.at(index % parts.count());
      const size_t row = index / parts.count() * rows_of_task;
      multiply(matrix, row, std::min(rows_, row + rows_of_task), first, last);
    };
    share_if(rows_ * outputs * inputs_ >= kWorthSharing, pool, row_parts * parts.count(), task);
  }

 private:
  uint32_t *panel(size_t first_row) { return panels_.data() + first_row * words_; }

  // Whole panels, as even as can be.
  size_t rows_of_each(size_t parts) const {
    const size_t panels = (rows_ + tiles_.lanes - 1) / tiles_.lanes;
    return (panels + parts - 1) / parts * tiles_.lanes;
  }

  // Few rows wait for memory, which wants large tasks; many do not.
  size_t outputs_of_each(ffi::ThreadPool &pool, size_t outputs, size_t row_parts) const {
    const size_t threads = static_cast<size_t>(std::max<int64_t>(pool.num_threads(), 1));
    const size_t most =
        row_parts > 1 ? kOutputsOfTile : kBytesOfTask / weight_bytes(kind_, inputs_);
    const size_t wanted = std::min(outputs * row_parts / (threads * kTasksOfThread), most);
    const size_t multiple = wanted < kOutputsOfTile ? kFewestOutputs : kOutputsOfTile;
    return std::max(wanted / multiple * multiple, kFewestOutputs);
  }

  void multiply(const Matrix &matrix, size_t first_row, size_t last_row, size_t first,
                size_t last) {
    for (size_t o = first; o < last; o += kOutputsOfTile) {
      const size_t here = std::min(kOutputsOfTile, last - o);
      const auto *scale = reinterpret_cast<const float *>(matrix.scale) + o;
      tiles_.multiply(panel(first_row), last_row - first_row, words_of(matrix, o, here),
                      kind_ == Kind::kInt8 ? scale : nullptr, words_, here,
                      matrix.result + first_row * matrix.outputs + o, matrix.outputs);
    }
  }

  // The weights of outputs as words, in memory of this thread where they have to be widened.
  const void *words_of(const Matrix &matrix, size_t first, size_t outputs) const {
    const char *weights = matrix.weights + first * weight_bytes(kind_, inputs_);
    const char *scale = matrix.scale + first * scale_bytes(kind_, inputs_);
    if (kind_ == Kind::kBfloat16 && tiles_.widen_bfloat16 == nullptr) return weights;
    thread_local std::vector<uint32_t> words;
    words.resize(std::max(words.size(), kOutputsOfTile * words_));
    if (kind_ == Kind::kBfloat16) {
      tiles_.widen_bfloat16(weights, inputs_, outputs, words.data());
    } else if (kind_ == Kind::kInt8) {
      tiles_.widen_int8(weights, inputs_, outputs, words.data());
    } else {
      tiles_.widen_int4(weights, scale, inputs_, outputs, words.data());
    }
    return words.data();
  }

  const Tiles &tiles_ = fastest_tiles();
  Kind kind_;
  size_t rows_, inputs_, words_;
  const std::vector<Matrix> &matrices_;
  Unset<uint32_t> panels_;
};

}  // namespace

size_t fewest_of_many_rows(Kind kind) {
  const auto &fewest = fastest_tiles().fewest_rows;
  return kind == Kind::kBfloat16 ? fewest.bfloat16
         : kind == Kind::kInt8   ? fewest.int8
                                 : fewest.int4;
}

void multiply_many_rows(ffi::ThreadPool &pool, Kind kind, const Operand &x,
                        const std::vector<Matrix> &matrices) {
  ManyRows product(kind, x.rows(), x.inputs(), matrices);
  product.pack(pool, x);
  product.multiply(pool);
}

}  // namespace gemma3
