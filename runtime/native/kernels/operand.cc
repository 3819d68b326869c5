#include "operand.h"

#include <algorithm>

#include "numbers.h"
#include "share.h"

namespace gemma3 {
namespace {

namespace ffi = xla::ffi;

// Rows that are normed by one task.
constexpr size_t kRowsOfTask = 32;

}  // namespace

const float *Operand::read(size_t first, size_t count, std::vector<float> &room) const {
  const float *x = x_ + first * inputs_;
  if (up_ == nullptr && norm_.gains == nullptr) return x;
  const LayerForms &forms = fastest_layer_forms();
  room.resize(std::max(room.size(), count * inputs_));
  for (size_t r = 0; r < count; ++r) {
    float *row = room.data() + r * inputs_;
    if (up_ != nullptr) {
      forms.gate(x + r * inputs_, up_ + (first + r) * inputs_, inputs_, row);
    } else {
      forms.norm(x + r * inputs_, norm_, inputs_, row);
    }
  }
  return room.data();
}

void add_norms(ffi::ThreadPool &pool, const Norm &norm, const float *residual, size_t rows,
               size_t outputs, float *result) {
  const auto task = [&](size_t index) {
    for (size_t r = index * kRowsOfTask; r < std::min(rows, (index + 1) * kRowsOfTask); ++r) {
      float *row = result + r * outputs;
      fastest_layer_forms().add_norm(row, norm, residual + r * outputs, outputs, row);
    }
  };
  share_if(rows > kRowsOfTask, pool, (rows + kRowsOfTask - 1) / kRowsOfTask, task);
}

bool read_gains(const ffi::AnyBuffer &weights, int64_t size, std::vector<float> &gains) {
  const auto shape = weights.dimensions();
  if (shape.size() != 1 || shape[0] != size) return false;
  const bool wide = weights.element_type() == ffi::F32;
  if (!wide && weights.element_type() != ffi::BF16) return false;
  if (!is_mapped(weights)) return false;
  const void *data = weights.untyped_data();
  gains.resize(size);
  for (int64_t i = 0; i < size; ++i) {
    const float weight = wide ? static_cast<const float *>(data)[i]
                              : from_bfloat16(static_cast<const uint16_t *>(data)[i]);
    gains[i] = 1.0f + weight;
  }
  return true;
}

}  // namespace gemma3
