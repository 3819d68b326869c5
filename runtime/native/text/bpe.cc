#include "bpe.h"

#include <limits>
#include <queue>
#include <unordered_map>
#include <utility>

#include "unicode.h"

namespace gemma3::text {
namespace {

// The text as pieces write it.
std::string with_space_pieces(std::string_view text) {
  std::string written;
  written.reserve(text.size() + text.size() / 3);
  for (const char byte : text) {
    if (byte == ' ') {
      written += kSpace;
    } else {
      written += byte;
    }
  }
  return written;
}

}  // namespace

void UserDefined::add(std::string_view text, int32_t id) {
  int32_t& root = roots_[static_cast<uint8_t>(text[0])];
  if (root < 0) {
    root = static_cast<int32_t>(nodes_.size());
    nodes_.emplace_back();
  }
  int32_t node = root;
  for (const char byte : text.substr(1)) {
    const int32_t child = child_of(node, byte);
    node = child >= 0 ? child : add_child(node, byte);
  }
  nodes_[static_cast<size_t>(node)].id = id;
}

int32_t UserDefined::child_of(int32_t node, char byte) const {
  int32_t child = nodes_[static_cast<size_t>(node)].child;
  while (child >= 0 && nodes_[static_cast<size_t>(child)].byte != byte) {
    child = nodes_[static_cast<size_t>(child)].sibling;
  }
  return child;
}

int32_t UserDefined::add_child(int32_t node, char byte) {
  const auto child = static_cast<int32_t>(nodes_.size());
  nodes_.push_back({-1, -1, nodes_[static_cast<size_t>(node)].child, byte});
  nodes_[static_cast<size_t>(node)].child = child;
  return child;
}

UserDefined::Match UserDefined::longest(std::string_view text) const {
  Match match{-1, 0};
  int32_t node = roots_[static_cast<uint8_t>(text[0])];
  for (size_t length = 1; node >= 0; ++length) {
    const int32_t id = nodes_[static_cast<size_t>(node)].id;
    if (id >= 0) match = {id, length};
    if (length == text.size()) break;
    node = child_of(node, text[length]);
  }
  return match;
}

// A text on its way to ids: symbols that begin as characters, merged two by two, the pair of the
// best score first and of equal ones the leftmost.
class Merging {
 public:
  // `text` must have no spaces but U+2581, and outlive this.
  Merging(const Bpe& bpe, std::string_view text, std::vector<int32_t>& ids)
      : bpe_(bpe), text_(text), ids_(ids) {}

  void run() {
    for (size_t at = 0; at < text_.size();) {
      const std::string_view rest = text_.substr(at);
      auto [id, length] = bpe_.user_defined_.longest(rest);
      const bool frozen = id >= 0;
      if (!frozen) {
        length = static_cast<size_t>(first_character(rest).length);
        if (length == 0) throw TokenizerError("cannot encode a text that is not UTF-8");
        id = bpe_.mergeable(rest.substr(0, length));
      }
      if (frozen || bpe_.parts_before(text_, at)) finish_stretch();
      add_symbol(at, length, id, frozen);
      at += length;
    }
    merge_stretch();
  }

 private:
  struct Symbol {
    uint32_t begin;
    uint32_t length;  // 0 once it is part of another
    int32_t previous, next;
    int32_t id;   // -1 for a character without a piece
    bool frozen;  // a user-defined piece, which nothing is merged with
  };
  struct Pair {
    float score;
    int32_t left, right;
    uint32_t length;
    int32_t id;
    // Whether `other` goes first.
    bool operator<(const Pair& other) const {
      return score < other.score || (score == other.score && left > other.left);
    }
  };

  const Symbol& symbol(int32_t at) const { return symbols_[static_cast<size_t>(at)]; }
  Symbol& symbol(int32_t at) { return symbols_[static_cast<size_t>(at)]; }

  void add_symbol(size_t at, size_t length, int32_t id, bool frozen) {
    const auto index = static_cast<int32_t>(symbols_.size());
    if (index > 0) symbol(index - 1).next = index;
    symbols_.push_back(
        {static_cast<uint32_t>(at), static_cast<uint32_t>(length), index - 1, -1, id, frozen});
  }

  // Merges the symbols so far, which nothing that follows can be merged with.
  void finish_stretch() {
    // What an unused piece is given as depends on what was merged anywhere in the text.
    if (!bpe_.has_unused_) merge_stretch();
  }

  void merge_stretch() {
    for (int32_t i = 1; i < static_cast<int32_t>(symbols_.size()); ++i) offer(i - 1, i);
    merge_all();
    for (int32_t at = symbols_.empty() ? -1 : 0; at >= 0; at = symbol(at).next) {
      write_symbol(symbol(at));
    }
    symbols_.clear();
  }

  // Notes that two neighbours can be merged, if they can.
  void offer(int32_t left, int32_t right) {
    if (left < 0 || right < 0 || symbol(left).frozen || symbol(right).frozen) return;
    const uint32_t length = symbol(left).length + symbol(right).length;
    if (length > kMostPieceBytes) return;
    const int32_t id = bpe_.mergeable(text_.substr(symbol(left).begin, length));
    if (id < 0) return;
    agenda_.push({bpe_.model_.score(id), left, right, length, id});
    if (bpe_.model_.kind(id) == PieceKind::kUnused) halves_[id] = {symbol(left), symbol(right)};
  }

  void merge_all() {
    while (!agenda_.empty()) {
      const Pair pair = agenda_.top();
      agenda_.pop();
      Symbol &left = symbol(pair.left), &right = symbol(pair.right);
      // Either has become part of another since.
      if (!left.length || !right.length || left.length + right.length != pair.length) continue;
      left.length = pair.length;
      left.id = pair.id;
      left.next = right.next;
      if (right.next >= 0) symbol(right.next).previous = pair.left;
      right.length = 0;
      offer(left.previous, pair.left);
      offer(pair.left, left.next);
    }
  }

  // An unused piece is given as the two it was last merged of; one that nothing is merged to is
  // spelled in bytes, as what has no piece.
  void write_symbol(const Symbol& one) {
    const bool unused = one.id >= 0 && bpe_.model_.kind(one.id) == PieceKind::kUnused;
    if (one.id >= 0 && !unused) {
      ids_.push_back(one.id);
    } else if (const auto found = halves_.find(one.id); found != halves_.end()) {
      write_symbol(found->second.first);
      write_symbol(found->second.second);
    } else {
      for (const char byte : text_.substr(one.begin, one.length)) {
        ids_.push_back(bpe_.model_.byte_piece(static_cast<uint8_t>(byte)));
      }
    }
  }

  const Bpe& bpe_;
  const std::string_view text_;
  std::vector<int32_t>& ids_;
  std::vector<Symbol> symbols_;
  std::priority_queue<Pair> agenda_;
  std::unordered_map<int32_t, std::pair<Symbol, Symbol>> halves_;  // of unused pieces
};

Bpe::Bpe(std::string content)
    : model_(std::move(content)), table_(static_cast<size_t>(model_.size()), TextOf{&model_}) {
  for (int32_t id = 0; id < model_.size(); ++id) {
    const std::string_view text = model_.text(id);
    const int32_t other = table_.insert(text, id);
    if (other >= 0) {
      throw TokenizerError("has a piece " + std::to_string(id) + " that is piece " +
                           std::to_string(other) + " again");
    }
    if (model_.kind(id) == PieceKind::kUserDefined) user_defined_.add(text, id);
    note_spaces(id);
  }
}

// Learns where texts may be parted: what no piece has inside, merging cannot reach across.
void Bpe::note_spaces(int32_t id) {
  const std::string_view text = model_.text(id);
  if (model_.kind(id) == PieceKind::kUnused) has_unused_ = true;
  for (size_t at = 0; (at = text.find(kSpace[0], at + 1)) != text.npos;) {
    if (text.compare(at, kSpace.size(), kSpace) == 0) {
      goes_on_with_space_[static_cast<uint8_t>(text[at - 1])] = true;
    }
  }
}

bool Bpe::parts_before(std::string_view text, size_t at) const {
  return at > 0 && text.compare(at, kSpace.size(), kSpace) == 0 &&
         !goes_on_with_space_[static_cast<uint8_t>(text[at - 1])];
}

int32_t Bpe::mergeable(std::string_view piece) const {
  const int32_t id = table_.find(piece);
  if (id < 0) return -1;
  switch (model_.kind(id)) {
    case PieceKind::kNormal:
    case PieceKind::kUserDefined:
    case PieceKind::kUnused: return id;
    default: return -1;
  }
}

void Bpe::encode(std::string_view text, std::vector<int32_t>& ids) const {
  const std::string written = with_space_pieces(text);
  if (written.size() > static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
    throw TokenizerError("cannot encode a text of 2 GiB");
  }
  Merging(*this, written, ids).run();
}

}  // namespace gemma3::text
