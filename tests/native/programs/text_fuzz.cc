// text_fuzz SEED CALLS MODEL PICTURE...: gemma3_text.h with hostile arguments, made from a sound
// tokenizer model and sound pictures. Prints, of each kind of call, how many succeeded and how many
// were refused. What is handed over lies in memory of exactly its size, so that a sanitizer sees
// what goes beyond.
#include <gemma3_text.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <vector>

#define CHECK(condition)                                          \
  do {                                                            \
    if (!(condition)) {                                           \
      std::printf("%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                               \
    }                                                             \
  } while (false)

namespace {

using Bytes = std::vector<uint8_t>;
std::mt19937 generator;

size_t below(size_t bound) {
  return std::uniform_int_distribution<size_t>(0, bound - 1)(generator);
}
bool chance(size_t one_in) { return below(one_in) == 0; }

Bytes read_file(const char *path) {
  std::ifstream file(path, std::ios::binary);
  CHECK(file);
  return Bytes((std::istreambuf_iterator<char>(file)), {});
}

Bytes damaged(const Bytes &sound) {
  Bytes bytes = sound;
  for (size_t i = below(5); i > 0; --i) bytes[below(bytes.size())] ^= uint8_t(1u << below(8));
  if (chance(4)) bytes.resize(below(bytes.size()));
  bytes.shrink_to_fit();
  return bytes;
}

// A text with a NUL at its end, in memory of that size: words, control tokens, broken UTF-8.
std::unique_ptr<char[]> any_text() {
  static const std::vector<std::string> parts = {"the",
                                                 " ",
                                                 "<start_of_turn>",
                                                 "<eos>",
                                                 "<start_of_image>",
                                                 "user",
                                                 "assistant",
                                                 "system",
                                                 "\xE6\x97\xA5",
                                                 "\xE6\x97",
                                                 "\xFF",
                                                 "<0x41>",
                                                 "\n",
                                                 "<end_of",
                                                 "_turn>"};
  std::string text;
  const size_t kinds = chance(3) ? parts.size() : 8;  // mostly UTF-8
  for (size_t i = below(6); i > 0; --i) text += parts[below(kinds)];
  std::unique_ptr<char[]> copy(new char[text.size() + 1]);
  std::memcpy(copy.get(), text.c_str(), text.size() + 1);
  return copy;
}

size_t any_count(size_t sound) {
  static const size_t kStrange[] = {0, size_t{1} << 31, size_t{1} << 62, SIZE_MAX - 1};
  return chance(10) ? kStrange[below(4)] : sound;
}

uint32_t any_flags() { return chance(10) ? uint32_t(generator()) : uint32_t(below(32)); }

// Counts how calls of one kind ended. Nothing may be given by a call that failed.
struct Kind {
  const char *name;
  size_t succeeded = 0, refused = 0;

  bool ended(gemma3_status status, const gemma3_error &error, bool untouched) {
    CHECK(status == error.status && (status == GEMMA3_OK || status == GEMMA3_USAGE));
    CHECK((status == GEMMA3_OK) == (error.message[0] == '\0'));
    CHECK(std::strpbrk(error.message, "\n\r") == nullptr);
    if (status == GEMMA3_OK) return ++succeeded, true;
    CHECK(untouched);
    return ++refused, false;
  }
};

gemma3_tokenizer *open(Kind &kind, const Bytes &model) {
  gemma3_error error;
  gemma3_tokenizer *tokenizer = nullptr;
  const auto bos = static_cast<int32_t>(below(4)) - 1;
  // Neither NULL with bytes, nor a count that is believed, is read.
  const uint8_t *bytes = chance(20) ? nullptr : model.data();
  const bool strange = chance(20);
  const size_t count = strange ? SIZE_MAX / 2 : model.size();
  const gemma3_status status = gemma3_tokenizer_read(bytes, count, bos, &tokenizer, &error);
  return kind.ended(status, error, tokenizer == nullptr) ? tokenizer : nullptr;
}

void encode(Kind &kind, const gemma3_tokenizer *tokenizer) {
  gemma3_error error;
  int32_t *tokens = nullptr;
  size_t count = 77;
  const auto text = any_text();
  const size_t length = chance(2) ? std::strlen(text.get()) : GEMMA3_TO_NUL;
  const gemma3_status status =
      gemma3_encode(chance(20) ? nullptr : tokenizer, chance(20) ? nullptr : text.get(), length,
                    any_flags() & 7, chance(20) ? nullptr : &tokens, &count, &error);
  if (!kind.ended(status, error, tokens == nullptr && count == 77)) return;
  char *again = nullptr;
  if (gemma3_decode(tokenizer, tokens, count, any_flags() & 8, &again, nullptr, &error) == 0) {
    gemma3_free(again);
  }
  gemma3_free(tokens);
}

void decode(Kind &kind, const gemma3_tokenizer *tokenizer) {
  gemma3_error error;
  std::vector<int32_t> ids(below(20));
  for (int32_t &id : ids) id = chance(5) ? int32_t(generator()) : int32_t(below(330)) - 5;
  ids.shrink_to_fit();
  size_t count = any_count(ids.size());
  if (count < SIZE_MAX / 4 && count > ids.size()) count = SIZE_MAX / 4;
  char *text = nullptr;
  size_t length = 77;
  const gemma3_status status =
      gemma3_decode(chance(20) ? nullptr : tokenizer, chance(20) ? nullptr : ids.data(), count,
                    any_flags() & 9, &text, &length, &error);
  if (!kind.ended(status, error, text == nullptr && length == 77)) return;
  CHECK(text[length] == '\0');
  gemma3_free(text);
}

void stream(Kind &kind, const gemma3_tokenizer *tokenizer) {
  gemma3_error error;
  std::unique_ptr<char[]> stops[] = {any_text(), any_text()};
  const char *views[] = {stops[0].get(), chance(10) ? nullptr : stops[1].get()};
  const gemma3_text_stream_options options = {chance(20) ? below(9000) : sizeof options, views,
                                              chance(10) ? SIZE_MAX : below(3), any_flags() & 9};
  // What `size` says is there: zeros.
  std::vector<uint8_t> room(16384);
  std::memcpy(room.data(), &options, sizeof options);
  const auto *given = reinterpret_cast<const gemma3_text_stream_options *>(room.data());
  gemma3_text_stream *own = nullptr;
  const gemma3_status status =
      gemma3_text_stream_open(tokenizer, chance(5) ? nullptr : given, &own, &error);
  if (!kind.ended(status, error, own == nullptr)) return;
  std::string shown;
  for (size_t i = below(30); i > 0; --i) {
    char *text = nullptr;
    size_t length = 0;
    int32_t stopped = -1;
    const int32_t id = chance(20) ? int32_t(generator()) : int32_t(below(330)) - 5;
    CHECK(gemma3_text_stream_push(own, id, &text, &length, &stopped, &error) == GEMMA3_OK);
    CHECK(text[length] == '\0' && (stopped == 0 || stopped == 1));
    gemma3_free(text);
    if (!chance(10)) continue;
    CHECK(gemma3_text_stream_flush(own, &text, &length, chance(2) ? nullptr : &error) == GEMMA3_OK);
    gemma3_free(text);
  }
  gemma3_text_stream_close(own);
}

void chat(Kind &kind, const gemma3_tokenizer *tokenizer) {
  static const char *const kRoles[] = {"user", "assistant", "user", "system", "cat"};
  gemma3_error error;
  std::vector<std::unique_ptr<char[]>> texts;
  std::vector<gemma3_message> messages;
  for (size_t i = below(4); i > 0; --i) {
    texts.push_back(any_text());
    const char *role = chance(4) ? kRoles[below(5)] : kRoles[messages.size() % 2];
    messages.push_back({chance(40) ? nullptr : role, chance(40) ? nullptr : texts.back().get()});
  }
  messages.shrink_to_fit();
  gemma3_chat known = {};
  known.size = sizeof known;
  known.messages = chance(20) ? nullptr : messages.data();
  known.message_size = chance(20) ? below(2) * 9000 : sizeof(gemma3_message);
  known.message_count = any_count(messages.size());
  if (known.message_count > messages.size()) known.message_count = SIZE_MAX;
  known.picture_count = chance(8) ? any_count(1) : 0;
  int32_t *tokens = nullptr;
  size_t count = 77;
  const gemma3_status status = gemma3_chat_prompt(tokenizer, &known, &tokens, &count, &error);
  if (kind.ended(status, error, tokens == nullptr && count == 77)) gemma3_free(tokens);
}

void pictures(Kind &kind, const std::vector<Bytes> &sound) {
  gemma3_error error;
  std::vector<Bytes> files;
  std::vector<gemma3_picture> views;
  for (size_t i = 1 + below(2); i > 0; --i) files.push_back(damaged(sound[below(sound.size())]));
  for (const Bytes &file : files)
    views.push_back({chance(40) ? nullptr : file.data(), file.size()});
  views.shrink_to_fit();
  gemma3_vision vision = {};
  vision.size = sizeof vision;
  vision.image_size = chance(20) ? uint32_t(generator()) | 0x10000 : uint32_t(1 + below(20));
  for (float &one : vision.deviation) one = chance(40) ? -1.0f : 0.5f;
  gemma3_pictures known = {};
  known.size = sizeof known;
  known.pictures = views.data();
  known.picture_size = sizeof(gemma3_picture);
  known.picture_count = chance(20) ? below(2) * SIZE_MAX : views.size();
  known.flags = any_flags() & 17;
  float *pixels = nullptr;
  size_t images = 77;
  uint32_t *crops = nullptr;
  const gemma3_status status =
      gemma3_read_pictures(&vision, &known, &pixels, &images, chance(2) ? nullptr : &crops, &error);
  if (!kind.ended(status, error, pixels == nullptr && crops == nullptr && images == 77)) return;
  CHECK(images >= views.size());
  gemma3_free(pixels);
  gemma3_free(crops);
}

}  // namespace

int main(int count, char **values) {
  if (count < 5) return 2;
  generator.seed(static_cast<uint32_t>(std::atoi(values[1])));
  const Bytes model = read_file(values[3]);
  std::vector<Bytes> sound;
  for (int i = 4; i < count; ++i) sound.push_back(read_file(values[i]));
  Kind kinds[] = {{"open"}, {"encode"}, {"decode"}, {"stream"}, {"chat"}, {"pictures"}};
  for (int i = std::atoi(values[2]); i > 0; --i) {
    gemma3_tokenizer *tokenizer = open(kinds[0], chance(2) ? damaged(model) : model);
    if (tokenizer != nullptr) {
      for (int turn = 0; turn < 4; ++turn) {
        encode(kinds[1], tokenizer);
        decode(kinds[2], tokenizer);
        stream(kinds[3], tokenizer);
        chat(kinds[4], tokenizer);
      }
    }
    gemma3_tokenizer_close(tokenizer);
    pictures(kinds[5], sound);
  }
  for (const Kind &kind : kinds) {
    std::printf("%s %zu succeeded %zu refused\n", kind.name, kind.succeeded, kind.refused);
  }
  return 0;
}
