// The kernels that programs of the variant "kernels" call through XLA's FFI, by these names:
//
//   gemma3_bfloat16_product(x f32 [R,I], weights bf16 [O,I] ...) -> f32 [R,O] ...
//   gemma3_int8_product(x f32 [R,I], (numbers s8 [O,I], scale f32 [O]) ...) -> f32 [R,O] ...
//   gemma3_int4_product(x f32 [R,I], (packed u8 [O,I/2], scale bf16 [O,I/32]) ...) -> f32 [R,O] ...
//
// One call multiplies x with any number of matrices, as q, k and v of a layer are, and I is a
// multiple of 32. Beside integers each 32 inputs of x are rounded to whole steps of 1/127 of their
// largest; beside bfloat16 x stays as it is. Of more rows x is rounded to bfloat16 (many_rows.h).

#include <algorithm>
#include <string>
#include <vector>

#include "dots.h"
#include "handler.h"
#include "many_rows.h"
#include "matrix.h"
#include "memory.h"
#include "share.h"
#include "xla/ffi/api/ffi.h"

namespace gemma3 {
namespace {

namespace ffi = xla::ffi;

// Outputs whose weights stay in the cache while rows take turns.
constexpr size_t kOutputsAtOnce = 8;
// Rows whose activations stay in a core's own cache while weights pass by.
constexpr size_t kRowsOfTask = 128;

Dots dots_of(Kind kind) {
  const Forms &forms = fastest_forms();
  return kind == Kind::kBfloat16 ? forms.bfloat16 : kind == Kind::kInt8 ? forms.int8 : forms.int4;
}

// The activations of a call, each row laid out for the kind of its weights.
class Arranged {
 public:
  Arranged(Kind kind, const float *x, size_t rows, size_t inputs)
      : stride_(arranged_size(inputs)) {
    floats_.resize(rows * stride_);
    if (kind == Kind::kBfloat16) {
      for (size_t r = 0; r < rows; ++r) {
        arrange_for_bfloat16(x + r * inputs, inputs, floats_.data() + r * stride_);
        rows_.push_back({floats_.data() + r * stride_, nullptr, nullptr});
      }
      return;
    }
    bytes_.resize(rows * stride_);
    if (kind == Kind::kInt4) offsets_.resize(rows * stride_ / kBlock * kOffsets);
    std::vector<int8_t> plain(inputs);
    for (size_t r = 0; r < rows; ++r) round_row(kind, x + r * inputs, inputs, r, plain.data());
  }
  const Activations *row(size_t r) const { return rows_.data() + r; }

 private:
  void round_row(Kind kind, const float *x, size_t inputs, size_t r, int8_t *plain) {
    const size_t repeated = kind == Kind::kInt8 ? kInt8Steps : kInt4Steps;
    float *steps = floats_.data() + r * stride_ / kGroup * repeated;
    fastest_forms().round(x, inputs, repeated, plain, steps);
    uint8_t *row = bytes_.data() + r * stride_;
    int32_t *offsets = nullptr;
    if (kind == Kind::kInt8) {
      arrange_for_int8(plain, inputs, row);
    } else {
      offsets = offsets_.data() + r * stride_ / kBlock * kOffsets;
      arrange_for_int4(plain, inputs, reinterpret_cast<int8_t *>(row), offsets);
    }
    rows_.push_back({row, steps, offsets});
  }

  size_t stride_;
  Aligned<float> floats_;  // the activations themselves, or the steps
  Aligned<uint8_t> bytes_;
  Aligned<int32_t> offsets_;
  std::vector<Activations> rows_;
};

// One call: rows of x times all its matrices.
class Product {
 public:
  Product(Kind kind, const float *x, size_t rows, size_t inputs, std::vector<Matrix> matrices)
      : kind_(kind), dots_(dots_of(kind)), x_(kind, x, rows, inputs), rows_(rows),
        inputs_(inputs), matrices_(std::move(matrices)) {}

  void run(ffi::ThreadPool &pool) const {
    size_t outputs = 0;
    for (const Matrix &matrix : matrices_) outputs += matrix.outputs;
    const size_t threads = static_cast<size_t>(std::max<int64_t>(pool.num_threads(), 1));
    const size_t wanted = std::min(outputs / (threads * kTasksOfThread),
                                   kBytesOfTask / weight_bytes(kind_, inputs_));
    const size_t outputs_of_task = std::max(wanted, kFewestOutputs);
    const size_t row_parts = (rows_ + kRowsOfTask - 1) / kRowsOfTask;
    std::vector<size_t> ends;  // how many parts the matrices up to each one have
    size_t parts = 0;
    for (const Matrix &matrix : matrices_) {
      ends.push_back(parts += (matrix.outputs + outputs_of_task - 1) / outputs_of_task);
    }
    const auto task = [&](size_t index) {
      const size_t part = index / row_parts;
      const size_t which = std::upper_bound(ends.begin(), ends.end(), part) - ends.begin();
      const size_t first = (part - (which == 0 ? 0 : ends[which - 1])) * outputs_of_task;
      const Matrix &matrix = matrices_[which];
      multiply(matrix, index % row_parts * kRowsOfTask, first,
               std::min(matrix.outputs, first + outputs_of_task));
    };
    if (rows_ * outputs * inputs_ < kWorthSharing) {
      for (size_t i = 0; i < row_parts * parts; ++i) task(i);
    } else {
      share(pool, row_parts * parts, task);
    }
  }

 private:
  void multiply(const Matrix &matrix, size_t first_row, size_t first, size_t last) const {
    const size_t width = weight_bytes(kind_, inputs_), scales = scale_bytes(kind_, inputs_);
    const size_t last_row = std::min(rows_, first_row + kRowsOfTask);
    const size_t at_once = last_row - first_row > kTileRows ? kOutputsAtOnce : last - first;
    for (size_t o = first; o < last; o += at_once) {
      const size_t here = std::min(at_once, last - o);
      for (size_t r = first_row; r < last_row; r += kTileRows) {
        const int rows = static_cast<int>(std::min<size_t>(kTileRows, last_row - r));
        dots_(x_.row(r), rows, matrix.weights + o * width, matrix.scale + o * scales, inputs_,
              here, matrix.result + r * matrix.outputs + o, matrix.outputs);
      }
    }
  }

  Kind kind_;
  Dots dots_;
  Arranged x_;
  size_t rows_, inputs_;
  std::vector<Matrix> matrices_;
};

bool has_shape(const ffi::AnyBuffer &buffer, ffi::DataType type, int64_t first, int64_t second) {
  const auto shape = buffer.dimensions();
  return buffer.element_type() == type && shape.size() == 2 && shape[0] == first &&
         shape[1] == second;
}

// Whether the arguments from `at` on are a matrix of the kind with this many inputs.
bool is_matrix(Kind kind, ffi::RemainingArgs &arguments, size_t at, int64_t inputs) {
  const auto weights = arguments.get<ffi::AnyBuffer>(at);
  if (!weights || weights->dimensions().size() != 2) return false;
  const int64_t outputs = weights->dimensions()[0];
  if (kind == Kind::kBfloat16) return has_shape(*weights, ffi::BF16, outputs, inputs);
  const auto scale = arguments.get<ffi::AnyBuffer>(at + 1);
  if (!scale) return false;
  if (kind == Kind::kInt4) {
    return has_shape(*weights, ffi::U8, outputs, inputs / 2) &&
           has_shape(*scale, ffi::BF16, outputs, inputs / static_cast<int64_t>(kGroup));
  }
  const auto scales = scale->dimensions();
  return has_shape(*weights, ffi::S8, outputs, inputs) && scale->element_type() == ffi::F32 &&
         scales.size() == 1 && scales[0] == outputs;
}

ffi::Error product(Kind kind, ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x,
                   ffi::RemainingArgs arguments, ffi::RemainingRets results) {
  const auto wrong = ffi::Error::InvalidArgument("gemma3 product: shapes do not belong together");
  const size_t arrays = kind == Kind::kBfloat16 ? 1 : 2;
  if (x.dimensions().size() != 2 || arguments.size() != arrays * results.size()) return wrong;
  const int64_t rows = x.dimensions()[0], inputs = x.dimensions()[1];
  if (inputs % kGroup) return wrong;
  std::vector<Matrix> matrices;
  for (size_t i = 0; i < results.size(); ++i) {
    auto result = results.get<ffi::AnyBuffer>(i);
    if (!is_matrix(kind, arguments, i * arrays, inputs) || !result) return wrong;
    const auto weights = *arguments.get<ffi::AnyBuffer>(i * arrays);
    const int64_t outputs = weights.dimensions()[0];
    if (!has_shape(**result, ffi::F32, rows, outputs)) return wrong;
    const auto scale = *arguments.get<ffi::AnyBuffer>(i * arrays + arrays - 1);
    matrices.push_back({static_cast<const char *>(weights.untyped_data()),
                        static_cast<const char *>(scale.untyped_data()),
                        static_cast<size_t>(outputs),
                        static_cast<float *>((*result)->untyped_data())});
  }
  if (static_cast<size_t>(rows) >= fewest_of_many_rows(kind)) {
    multiply_many_rows(pool, kind, x.typed_data(), rows, inputs, matrices);
  } else {
    Product(kind, x.typed_data(), rows, inputs, std::move(matrices)).run(pool);
  }
  return ffi::Error::Success();
}

template <Kind kKind>
ffi::Error product_of(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::RemainingArgs arguments,
                      ffi::RemainingRets results) {
  return product(kKind, pool, x, arguments, results);
}

}  // namespace
}  // namespace gemma3

#define GEMMA3_PRODUCT(name, kind)                                          \
  GEMMA3_KERNEL(name, gemma3::product_of<gemma3::Kind::kind>,               \
                xla::ffi::Ffi::Bind()                                       \
                    .Ctx<xla::ffi::ThreadPool>()                            \
                    .Arg<xla::ffi::Buffer<xla::ffi::F32>>()                 \
                    .RemainingArgs()                                        \
                    .RemainingRets())

GEMMA3_PRODUCT(gemma3_bfloat16_product, kBfloat16)
GEMMA3_PRODUCT(gemma3_int8_product, kInt8)
GEMMA3_PRODUCT(gemma3_int4_product, kInt4)
