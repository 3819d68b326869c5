#include "sharding.h"

#include <cstring>

namespace gemma3 {
namespace {

// Calls visit(byte in the whole, byte in the part, bytes) for each run of the block.
template <typename Visit>
void for_each_run(const Shape &shape, const Block &block, int64_t item, Visit visit) {
  size_t rank = shape.size();
  int64_t run = item;  // dimensions at the end that the block holds whole belong to one run
  while (rank > 0) {
    --rank;
    run *= block.shape[rank];
    if (block.shape[rank] != shape[rank]) break;
  }
  Shape index(rank, 0);  // of the run, over the dimensions before
  int64_t part = 0;
  while (true) {
    Block here{block.offset, block.shape};
    for (size_t i = 0; i < rank; ++i) here.offset[i] += index[i];
    visit(block_start(shape, here, item), part, run);
    part += run;
    size_t at = rank;
    while (at > 0 && ++index[at - 1] == block.shape[at - 1]) index[--at] = 0;
    if (at == 0) return;
  }
}

}  // namespace

Block shard_block(const Shape &shape, const Spec &spec, const Mesh &mesh, int64_t device) {
  Block block{Shape(shape.size(), 0), shard_shape(shape, spec, mesh)};
  Shape coordinates(mesh.axes.size(), 0);
  for (size_t axis = mesh.axes.size(); axis-- > 0; device /= mesh.axes[axis].size) {
    coordinates[axis] = device % mesh.axes[axis].size;
  }
  for (size_t dimension = 0; dimension < shape.size(); ++dimension) {
    int64_t part = 0;  // the first axis is the major one
    for (const std::string &name : spec[dimension]) {
      for (size_t axis = 0; axis < mesh.axes.size(); ++axis) {
        if (mesh.axes[axis].name != name) continue;
        part = part * mesh.axes[axis].size + coordinates[axis];
      }
    }
    block.offset[dimension] = part * block.shape[dimension];
  }
  return block;
}

bool is_contiguous(const Shape &shape, const Block &block) {
  size_t first = 0;
  while (first < shape.size() && block.shape[first] == 1) ++first;
  for (size_t i = first + 1; i < shape.size(); ++i) {
    if (block.shape[i] != shape[i]) return false;
  }
  return true;
}

int64_t block_start(const Shape &shape, const Block &block, int64_t item) {
  int64_t start = 0;
  for (size_t i = 0; i < shape.size(); ++i) start = start * shape[i] + block.offset[i];
  return start * item;
}

void copy_out(const uint8_t *whole, const Shape &shape, const Block &block, int64_t item,
              uint8_t *part) {
  for_each_run(shape, block, item, [&](int64_t from, int64_t to, int64_t count) {
    std::memcpy(part + to, whole + from, static_cast<size_t>(count));
  });
}

void copy_in(const uint8_t *part, const Shape &shape, const Block &block, int64_t item,
             uint8_t *whole) {
  for_each_run(shape, block, item, [&](int64_t to, int64_t from, int64_t count) {
    std::memcpy(whole + to, part + from, static_cast<size_t>(count));
  });
}

}  // namespace gemma3
