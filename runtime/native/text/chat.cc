#include "chat.h"

#include "error.h"
#include "unicode.h"

namespace gemma3::text {
namespace {

constexpr const char* kUser = "user";
constexpr const char* kModel = "model";

// Who speaks in a message of that role; empty for a role that there is not.
std::string speaker_of(std::string_view role) {
  if (role == "user") return kUser;
  return role == "assistant" || role == "model" ? kModel : "";
}

[[noreturn]] void refuse_role(size_t number, const std::string& expected, std::string_view role,
                              const char* why) {
  throw UsageError("message " + std::to_string(number) + ": expected role " + expected + ", got " +
                   in_quotes(role) + why);
}

}  // namespace

std::vector<Turn> read_turns(const std::vector<Message>& messages) {
  std::string_view system;
  std::vector<Turn> turns;
  for (size_t i = 0; i < messages.size(); ++i) {
    const auto& [role, content] = messages[i];
    if (role == "system" && i == 0) {
      system = content;
      continue;
    }
    const std::string speaker = speaker_of(role);
    const bool late = role == "system";
    if (speaker.empty()) {
      refuse_role(i + 1, std::string("user or assistant") + (late ? " (system comes first)" : ""),
                  role, "");
    }
    const std::string expected = turns.size() % 2 ? kModel : kUser;
    if (speaker != expected) {
      refuse_role(i + 1, expected == kUser ? "user" : "assistant", role,
                  ": users and the model take turns");
    }
    turns.push_back({speaker, std::string(content)});
  }
  if (turns.empty() || turns.back().speaker != kUser) {
    throw UsageError("messages: expected the last one from the user: the model is to answer it");
  }
  if (!system.empty()) turns[0].text = strip(system) + "\n\n" + strip(turns[0].text);
  return turns;
}

Ids encode_chat(const Tokenizer& tokenizer, const std::vector<Turn>& turns,
                const std::vector<int>& crops, const ImageTokens& tokens) {
  size_t places = 0;
  for (const Turn& turn : turns) places += count_places(turn.text);
  const bool in_front = turns.size() == 1 && places == 0;
  if (!in_front && places != crops.size()) {
    throw UsageError("messages have " + std::to_string(places) + " times " +
                     std::string(kPlaceholder) + " but there are " + std::to_string(crops.size()) +
                     " images; write it once for each image");
  }
  std::vector<Ids> ids;
  auto next = crops.begin();
  for (const Turn& turn : turns) {
    const auto count = in_front ? crops.size() : count_places(turn.text);
    const auto end = next + static_cast<std::ptrdiff_t>(count);
    ids.push_back(encode_turn(tokenizer, turn.speaker, turn.text, {next, end}, tokens));
    next = end;
  }
  return tokenizer.conversation(ids);
}

}  // namespace gemma3::text
