#include "soft_tokens.h"

#include <algorithm>

namespace gemma3 {

SoftTokens SoftTokens::encode(Model &model, const gemma3_prompt *prompts, size_t count,
                              const std::vector<Tokens> &texts, const Between &between) {
  const VisionRecord &vision = *model.manifest().vision;
  SoftTokens soft;
  soft.size = vision.soft_token_size;
  std::vector<float> pixels;
  int64_t images = 0;
  for (size_t row = 0; row < count; ++row) {
    const auto numbers =
        static_cast<size_t>(3 * vision.image_size * vision.image_size) * prompts[row].images;
    if (numbers > 0)
      pixels.insert(pixels.end(), prompts[row].pixels, prompts[row].pixels + numbers);
    images += static_cast<int64_t>(prompts[row].images);
  }
  soft.values = encode_images(model, pixels.data(), images, between);
  int64_t first = 0;  // of the row's: as in transformers, the images fill the places in order
  for (size_t row = 0; row < texts.size(); ++row) {
    const Tokens &text = texts[row];
    const auto places = std::count(text.begin(), text.end(), vision.soft_token_id);
    const auto own = static_cast<int64_t>(prompts[row].images) * vision.tokens_per_image;
    // A session feeds the token drawn last before the prompt: if it is such an id, it is of no
    // image of the prompt.
    int64_t next = first - (places - own);
    std::vector<int64_t> index;
    for (int32_t token : text) {
      if (token != vision.soft_token_id) {
        index.push_back(-1);
        continue;
      }
      index.push_back(next < first ? -1 : next);
      ++next;
    }
    first += own;
    soft.index.push_back(std::move(index));
  }
  return soft;
}

void SoftTokens::add_inputs(const PrefillCall &call, int64_t batch, HostArrays &inputs) const {
  HostArray room("float32", {batch * call.size, size});
  HostArray places("int32", {batch, call.size});
  std::fill_n(places.data<int32_t>(), batch * call.size, -1);
  int32_t used = 0;
  for (size_t row = 0; row < call.rows.size(); ++row) {
    const auto [start, length] = call.rows[row];
    for (int64_t i = 0; i < length; ++i) {
      const int64_t wanted = index[row][static_cast<size_t>(start + i)];
      if (wanted < 0) continue;
      std::copy_n(values.data() + wanted * size, size, room.data<float>() + used * size);
      places.data<int32_t>()[static_cast<int64_t>(row) * call.size + i] = used++;
    }
  }
  inputs.push_back(std::move(room));
  inputs.push_back(std::move(places));
}

}  // namespace gemma3
