// Which part of a tensor each device of a mesh holds, and copying parts out of and into wholes.
#ifndef GEMMA3_SRC_SHARDING_H_
#define GEMMA3_SRC_SHARDING_H_

#include <cstdint>

#include "manifest.h"

namespace gemma3 {

// A part of a tensor: elements offset[i] to offset[i] + shape[i] of each dimension.
struct Block {
  Shape offset, shape;
};

// What device `device` of the mesh holds; the spec has been checked.
Block shard_block(const Shape &shape, const Spec &spec, const Mesh &mesh, int64_t device);

// Whether the block lies in one piece in a tensor of row-major `shape`.
bool is_contiguous(const Shape &shape, const Block &block);

// Bytes from the start of the tensor to the first element of the block.
int64_t block_start(const Shape &shape, const Block &block, int64_t item);

// Copies the block out of `whole` to the contiguous `part`, or back into it.
void copy_out(const uint8_t *whole, const Shape &shape, const Block &block, int64_t item,
              uint8_t *part);
void copy_in(const uint8_t *part, const Shape &shape, const Block &block, int64_t item,
             uint8_t *whole);

}  // namespace gemma3

#endif  // GEMMA3_SRC_SHARDING_H_
