#include "signature.h"

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/pem.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <system_error>
#include <vector>

#include "error.h"

namespace gemma3::host {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr char kSignature[] = "model.sig", kManifest[] = "manifest.json";
constexpr char kMediaType[] = "application/vnd.dev.sigstore.bundle.v0.3+json";
constexpr char kPayloadType[] = "application/vnd.in-toto+json";
constexpr char kStatementType[] = "https://in-toto.io/Statement/v1";
constexpr char kPredicateType[] = "https://model_signing/signature/v1.0";
constexpr uintmax_t kMostBytes = uintmax_t{1} << 28;

template <auto kFree>
struct Freeing {
  template <typename T>
  void operator()(T* object) const {
    kFree(object);
  }
};
using Bio = std::unique_ptr<BIO, Freeing<BIO_free_all>>;
using Key = std::unique_ptr<EVP_PKEY, Freeing<EVP_PKEY_free>>;
using Context = std::unique_ptr<EVP_MD_CTX, Freeing<EVP_MD_CTX_free>>;

// SHA-256 of what is added, as 64 hexadecimal digits.
class Digest {
 public:
  Digest() : context_(EVP_MD_CTX_new()) {
    EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr);
  }
  void add(const void* data, size_t count) { EVP_DigestUpdate(context_.get(), data, count); }
  std::string hex() {
    unsigned char bytes[EVP_MAX_MD_SIZE];
    unsigned count = 0;
    EVP_DigestFinal_ex(context_.get(), bytes, &count);
    std::string text;
    for (unsigned i = 0; i < count; ++i) {
      text += "0123456789abcdef"[bytes[i] >> 4];
      text += "0123456789abcdef"[bytes[i] & 15];
    }
    return text;
  }

 private:
  Context context_;
};

std::string bytes_of_hex(const std::string& text) {
  std::string bytes;
  for (size_t i = 0; i + 1 < text.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(text.substr(i, 2), nullptr, 16));
  }
  return bytes;
}

// The contents of a file of modest size; empty where it cannot be read.
std::string contents(const fs::path& path) {
  std::error_code error;
  if (!fs::is_regular_file(path, error) || fs::file_size(path, error) > kMostBytes) return {};
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// A public key and the digest that signatures with it are over.
struct Trusted {
  Key key;
  const EVP_MD* digest = nullptr;
};

Trusted read_key(const fs::path& path) {
  const auto refuse = [&path](const std::string& reason) {
    return UsageError(path.string() + ": cannot verify with it: " + reason +
                      "; expected a PEM file of a public elliptic-curve key (P-256, P-384 or "
                      "P-521)");
  };
  const std::string pem = contents(path);
  if (pem.empty()) throw refuse("it cannot be read");
  if (pem.find("-----BEGIN CERTIFICATE-----") != pem.npos) {
    throw UsageError("--require-signature: " + path.string() +
                     " is a certificate, and gemma3-host verifies with keys only; check the bundle "
                     "with gemma3-bundle verify --certificate " + path.string());
  }
  const Bio bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  Trusted trusted{Key(PEM_read_bio_PUBKEY(bio.get(), nullptr, nullptr, nullptr)), nullptr};
  if (!trusted.key) throw refuse("it holds no public key");
  char curve[64] = "";
  size_t length = 0;
  EVP_PKEY_get_utf8_string_param(trusted.key.get(), OSSL_PKEY_PARAM_GROUP_NAME, curve,
                                 sizeof curve, &length);
  const std::string name(curve);
  if (name == "prime256v1") trusted.digest = EVP_sha256();
  if (name == "secp384r1") trusted.digest = EVP_sha384();
  if (name == "secp521r1") trusted.digest = EVP_sha512();
  if (!trusted.digest) throw refuse("its kind is another");
  return trusted;
}

// What signatures name a key by.
std::string fingerprint(const Key& key) {
  const Bio bio(BIO_new(BIO_s_mem()));
  PEM_write_bio_PUBKEY(bio.get(), key.get());
  char* text = nullptr;
  const long count = BIO_get_mem_data(bio.get(), &text);
  Digest digest;
  digest.add(text, static_cast<size_t>(count));
  return digest.hex();
}

std::string from_base64(const std::string& text) {
  std::string bytes(text.size() / 4 * 3 + 3, '\0');
  const int count = EVP_DecodeBlock(reinterpret_cast<unsigned char*>(bytes.data()),
                                    reinterpret_cast<const unsigned char*>(text.data()),
                                    static_cast<int>(text.size()));
  const auto padding = text.size() - std::min(text.size(), text.find_last_not_of('=') + 1);
  if (count < static_cast<int>(padding)) throw std::invalid_argument("not base64");
  bytes.resize(static_cast<size_t>(count) - padding);
  return bytes;
}

// Relative, and nowhere out of the bundle.
bool is_inside(const fs::path& path) {
  const auto up = [](const fs::path& part) { return part == ".."; };
  return !path.empty() && path.is_relative() && std::none_of(path.begin(), path.end(), up);
}

// What a signature file holds. Nothing of it is to be believed before `is_by`.
struct Signature {
  std::string hint, payload, signature;
  bool by_key = false;
  Json statement;

  explicit Signature(const std::string& text) {
    const Json bundle = Json::parse(text);
    if (bundle.at("mediaType") != kMediaType) throw std::invalid_argument("another media type");
    const Json& material = bundle.at("verificationMaterial");
    by_key = material.contains("publicKey");
    if (by_key) hint = material.at("publicKey").value("hint", "");
    const Json& envelope = bundle.at("dsseEnvelope");
    if (envelope.at("payloadType") != kPayloadType) throw std::invalid_argument("another payload");
    payload = from_base64(envelope.at("payload").get<std::string>());
    signature = from_base64(envelope.at("signatures").at(0).at("sig").get<std::string>());
    statement = Json::parse(payload);
    for (const Json& resource : resources()) {
      resource.at("name").get<std::string>();
      resource.at("digest").get<std::string>();
    }
  }

  const Json& resources() const { return statement.at("predicate").at("resources"); }

  bool is_by(const Trusted& trusted) const {
    const std::string message = "DSSEv1 " + std::to_string(sizeof kPayloadType - 1) + " " +
                                kPayloadType + " " + std::to_string(payload.size()) + " " + payload;
    const Context context(EVP_MD_CTX_new());
    const auto bytes = [](const std::string& text) {
      return reinterpret_cast<const unsigned char*>(text.data());
    };
    return EVP_DigestVerifyInit(context.get(), nullptr, trusted.digest, nullptr,
                                trusted.key.get()) == 1 &&
           EVP_DigestVerify(context.get(), bytes(signature), signature.size(), bytes(message),
                            message.size()) == 1;
  }

  // Whether the statement is of the kind that we read, and whole.
  bool is_sound() const try {
    if (statement.at("_type") != kStatementType) return false;
    if (statement.at("predicateType") != kPredicateType) return false;
    Digest all;
    for (const Json& resource : resources()) {
      if (resource.at("algorithm") != "sha256") return false;
      const std::string digest = bytes_of_hex(resource.at("digest"));
      all.add(digest.data(), digest.size());
    }
    return statement.at("subject").at(0).at("digest").at("sha256") == all.hex();
  } catch (const std::exception&) {
    return false;
  }
};

Signature read_signature(const fs::path& where) {
  std::error_code error;
  if (!fs::is_regular_file(fs::symlink_status(where, error))) {
    throw UsageError(where.string() +
                     ": expected a signature, got none; sign the bundle with gemma3-bundle sign, "
                     "or take it from whoever made it");
  }
  try {
    return Signature(contents(where));
  } catch (const std::exception&) {
    throw UsageError(where.string() +
                     ": expected a signature by model-signing, got another file; sign the bundle "
                     "again with gemma3-bundle sign");
  }
}

// The manifest and every file that it names.
std::set<std::string> files_of(const fs::path& bundle) {
  const fs::path path = bundle / kManifest;
  try {
    std::set<std::string> files = {kManifest};
    const Json manifest = Json::parse(contents(path));
    for (const Json& record : manifest.at("files")) files.insert(record.at("path"));
    return files;
  } catch (const std::exception&) {
    throw UsageError(path.string() +
                     ": expected the manifest of a bundle, got none; pass the folder of a bundle");
  }
}

// Why a file is not what was signed; empty when it is.
std::string difference(const fs::path& bundle, const std::string& name, const std::string& sha256) {
  const fs::path path = bundle / name;
  std::error_code error;
  const fs::file_status status = fs::symlink_status(path, error);
  if (status.type() == fs::file_type::not_found) return name + " is missing";
  std::ifstream file(path, std::ios::binary);
  if (!fs::is_regular_file(status) || !file) return name + " is not a file that can be read";
  Digest digest;
  std::vector<char> piece(1 << 20);
  do {
    file.read(piece.data(), static_cast<std::streamsize>(piece.size()));
    digest.add(piece.data(), static_cast<size_t>(file.gcount()));
  } while (file);
  return digest.hex() == sha256 ? "" : name + " is not what was signed";
}

}  // namespace

void require_signature(const fs::path& bundle, const fs::path& key) {
  std::set<std::string> unsigned_files = files_of(bundle);
  const fs::path where = bundle / kSignature;
  const Trusted trusted = read_key(key);
  const Signature signature = read_signature(where);
  if (!signature.by_key) {
    throw UsageError(where.string() +
                     ": expected a signature with a key, got one with a certificate, which "
                     "gemma3-host does not verify; check the bundle with gemma3-bundle verify "
                     "--certificate ROOT, or have it signed with a key");
  }
  for (const Json& resource : signature.resources()) {
    const std::string name = resource.at("name");
    unsigned_files.erase(name);
    if (is_inside(name)) continue;
    throw UsageError(where.string() + ": expected paths inside the bundle, got " + name +
                     "; sign the bundle again with gemma3-bundle sign");
  }
  if (!unsigned_files.empty()) {
    throw UsageError(where.string() +
                     ": expected a signature of every file of the bundle, got one without " +
                     *unsigned_files.begin() + "; sign the bundle again with gemma3-bundle sign");
  }
  const auto refuse = [&](const std::string& reason) {
    return UsageError(where.string() + ": not a signature of this bundle by " + key.string() +
                      ": " + reason + "; take the bundle again from whoever made it, or check "
                      "which key signed it");
  };
  if (!signature.hint.empty() && signature.hint != fingerprint(trusted.key)) {
    throw refuse("another key signed it");
  }
  if (!signature.is_by(trusted)) throw refuse("the signature is not valid");
  if (!signature.is_sound()) throw refuse("it states something else than digests of files");
  for (const Json& resource : signature.resources()) {
    const std::string why = difference(bundle, resource.at("name"), resource.at("digest"));
    if (!why.empty()) throw refuse(why);
  }
}

}  // namespace gemma3::host
