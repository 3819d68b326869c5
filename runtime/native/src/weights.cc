#include "weights.h"

#include <cstdlib>
#include <new>
#include <utility>

#include "sha256.h"
#include "sharding.h"

namespace gemma3 {
namespace {

constexpr size_t kAlignment = 64;  // what XLA:CPU takes without copying

}  // namespace

void WeightStore::Free::operator()(uint8_t *memory) const { std::free(memory); }

WeightStore::Memory WeightStore::aligned(size_t bytes) {
  const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  void *memory = std::aligned_alloc(kAlignment, rounded);
  if (memory == nullptr) throw std::bad_alloc();
  return Memory(static_cast<uint8_t *>(memory));
}

std::vector<const Shards *> WeightStore::take(const std::vector<std::string> &names) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const std::string &name : names) {
    if (weights_.count(name) > 0) continue;
    if (source_.between) source_.between();
    place(bundle_.weight(name));
  }
  if (!client_.on_cpu()) {
    for (const Event &event : done_) await(client_.plugin(), event, "copying weights to a device");
    done_.clear();
    copies_.clear();
    mappings_.clear();
  }
  std::vector<const Shards *> taken;
  for (const std::string &name : names) taken.push_back(&weights_.at(name));
  return taken;
}

int64_t WeightStore::mapped_bytes() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return mapped_;
}

int64_t WeightStore::copied_bytes() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return copied_;
}

WeightStore::~WeightStore() {
  weights_.clear();
  // A device may use the memory until it says that it is done, which it does when buffers go.
  for (const Event &event : done_) {
    try {
      await(client_.plugin(), event, "letting weights go");
    } catch (const Error &) {
      continue;  // done in another way
    }
  }
}

const Mapping &WeightStore::map(const std::string &file) {
  auto &mapping = mappings_[file];
  if (mapping == nullptr) {
    mapping = source_.copy ? copy(file) : std::make_unique<Mapping>(bundle_.weight_file(file));
  }
  return *mapping;
}

std::unique_ptr<Mapping> WeightStore::copy(const std::string &file) const {
  Sha256 digest;
  auto copied = Mapping::copy(bundle_.weight_file(file), [&](const void *data, size_t count) {
    if (source_.between) source_.between();
    if (source_.digests) digest.update(data, count);
  });
  const FileRecord &expected = bundle_.record(file);
  if (!source_.digests) return copied;
  const std::string got = digest.hex();
  if (got != expected.sha256) bundle_.refuse_digest(expected, got);
  return copied;
}

void WeightStore::place(const Weight &weight) {
  const Spec &spec = record_.weight_specs.at(weight.name);
  const Mesh &mesh = record_.mesh;
  const uint8_t *whole = map(weight.file).data() + weight.offset;
  const int64_t item = item_size(weight.dtype);
  std::map<Shape, const uint8_t *> copies;  // by where the part begins
  Shards shards;
  for (int64_t device = 0; device < mesh.devices(); ++device) {
    const Block block = shard_block(weight.shape, spec, mesh, device);
    const uint8_t *part = whole + block_start(weight.shape, block, item);
    const int64_t bytes = byte_size(block.shape, weight.dtype);
    const bool mapped =
        is_contiguous(weight.shape, block) && reinterpret_cast<uintptr_t>(part) % kAlignment == 0;
    const auto [copy, fresh] = copies.emplace(block.offset, part);
    if (fresh) (mapped && !source_.copy ? mapped_ : copied_) += bytes;
    if (fresh && !mapped) {
      copies_.push_back(aligned(static_cast<size_t>(bytes)));
      copy_out(whole, weight.shape, block, item, copies_.back().get());
      copy->second = copies_.back().get();
    }
    Upload upload = client_.upload(copy->second, weight.dtype, block.shape,
                                   static_cast<size_t>(device), Handover::kZeroCopy);
    shards.push_back(std::move(upload.buffer));
    done_.push_back(std::move(upload.done));
  }
  weights_[weight.name] = std::move(shards);
}

}  // namespace gemma3
