// Parts of gemma3-host, each fed from stdin and printed, so that tests can compare them with the
// Python runtime's. Records on stdin: a little-endian uint32 length, then that many bytes.
//
//   host_parts encode MODEL BOS     texts to ids, a line each
//   host_parts chat MODEL BOS       texts to ids of a chat
//   host_parts decode MODEL BOS     int32 ids to a JSON list of what each push and the end gave
//   host_parts stop MODEL BOS STOP...   int32 ids to a JSON list of what each push and the end gave
//   host_parts numbers              doubles to JSON
//   host_parts strings              texts to JSON lists of json, stripped, quoted and one line
//   host_parts around               (int32 crops..., then text) to a JSON list of texts
//   host_parts boxes                (int32 width, height) to crop boxes
//   host_parts image SIZE PAN FILE...   crops on stderr, float32 pixels on stdout
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <optional>

#include "error.h"
#include "image_prompt.h"
#include "images.h"
#include "json.h"
#include "records.h"
#include "text_stream.h"
#include "tokenizer.h"
#include "unicode.h"

using namespace gemma3;
using namespace gemma3::host;
using namespace gemma3::images;
using namespace gemma3::text;

namespace {

template <typename T>
std::vector<T> values_of(const std::string& record) {
  std::vector<T> values(record.size() / sizeof(T));
  std::memcpy(values.data(), record.data(), values.size() * sizeof(T));
  return values;
}

void print_ids(const Ids& ids) {
  std::cout << json_list(ids, [](int32_t id) { return std::to_string(id); }) << "\n";
}

void print_strings(const std::vector<std::string>& strings) {
  std::cout << json_list(strings, [](const std::string& s) { return json_string(s); }) << "\n";
}

template <typename Stream>
void print_stream(Stream stream, const Ids& ids) {
  std::vector<std::string> shown;
  for (const int32_t id : ids) shown.push_back(stream.push(id));
  shown.push_back(stream.close());
  print_strings(shown);
}

int run_text(const std::string& what, const std::vector<std::string>& arguments) {
  std::ifstream file(arguments.at(0), std::ios::binary);
  const std::string content((std::istreambuf_iterator<char>(file)), {});
  const Tokenizer tokenizer(content, arguments[0], std::stoi(arguments.at(1)));
  const std::vector<std::string> stops(arguments.begin() + 2, arguments.end());
  while (const auto record = next_record()) {
    if (what == "encode") print_ids(tokenizer.encode(*record, false));
    if (what == "chat") print_ids(tokenizer.chat(*record));
    if (what == "decode") print_stream(tokenizer.decoder(), values_of<int32_t>(*record));
    if (what == "stop") {
      print_stream(TextStream(tokenizer.decoder(), stops), values_of<int32_t>(*record));
    }
  }
  return 0;
}

int run_records(const std::string& what) {
  while (const auto record = next_record()) {
    if (what == "numbers") {
      for (const double value : values_of<double>(*record)) std::cout << json_number(value) << "\n";
    } else if (what == "strings") {
      print_strings({*record, strip(*record), in_quotes(*record), one_line(*record)});
    } else if (what == "around") {
      const auto crops = values_of<int32_t>(*record);
      print_strings(texts_around_images(next_record().value(), {crops.begin(), crops.end()}));
    } else if (what == "boxes") {
      const auto size = values_of<int32_t>(*record);
      std::cout << json_list(crop_boxes(size.at(0), size.at(1)), [](const Box& box) {
        return json_list(std::vector<int>{box.left, box.top, box.right, box.bottom},
                         [](int side) { return std::to_string(side); });
      }) << "\n";
    }
  }
  return 0;
}

int run_image(const std::vector<std::string>& arguments) {
  const std::vector<std::filesystem::path> paths(arguments.begin() + 2, arguments.end());
  for (const Picture& picture :
       load_images(paths, std::stoi(arguments.at(0)), arguments.at(1) == "1")) {
    std::cerr << picture.crops << "\n";
    std::fwrite(picture.pixels.data(), sizeof(float), picture.pixels.size(), stdout);
  }
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  const std::vector<std::string> rest(arguments + 2, arguments + count);
  const std::string what = arguments[1];
  try {
    if (what == "image") return run_image(rest);
    return rest.empty() ? run_records(what) : run_text(what, rest);
  } catch (const UsageError& error) {
    std::cerr << "error: " << one_line(error.what()) << "\n";
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "error: " << one_line(error.what()) << "\n";
    return 1;
  }
}
