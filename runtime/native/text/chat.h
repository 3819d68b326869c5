// Conversations as Gemma writes them: turns of users and of the model; runtime/text/chat.py.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "image_prompt.h"
#include "tokenizer.h"

namespace gemma3::text {

// What somebody says: `user`, `assistant` (or `model`) or, first of all, `system`.
struct Message {
  std::string_view role, content;
};

// What one side says; the speaker is `user` or `model`, as Gemma calls them.
struct Turn {
  std::string speaker, text;
};

// The turns of a conversation that the model is to continue. What the system says stands before the
// first text of the user, an empty line between them. Throws UsageError, which names the message.
std::vector<Turn> read_turns(const std::vector<Message>& messages);

// Ids of a conversation that the model is to continue; `crops` are the pan and scan crops of each of
// its images, in order. Images stand at the places of the texts; where there is only one turn, and
// no place in it, in front of its text. Throws UsageError for another number of places.
Ids encode_chat(const Tokenizer& tokenizer, const std::vector<Turn>& turns,
                const std::vector<int>& crops, const ImageTokens& tokens);

}  // namespace gemma3::text
