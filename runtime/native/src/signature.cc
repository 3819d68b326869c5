#include "signature.h"

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/pem.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <memory>
#include <stdexcept>
#include <vector>

#include "bundle.h"
#include "error.h"
#include "files.h"
#include "json.h"

namespace gemma3 {
namespace {

constexpr char kSignature[] = "model.sig", kManifest[] = "manifest.json";
constexpr char kMediaType[] = "application/vnd.dev.sigstore.bundle.v0.3+json";
constexpr char kPayloadType[] = "application/vnd.in-toto+json";
constexpr char kStatementType[] = "https://in-toto.io/Statement/v1";
constexpr char kPredicateType[] = "https://model_signing/signature/v1.0";
constexpr int64_t kMaxSignatureBytes = int64_t{1} << 24, kMaxKeyBytes = int64_t{1} << 20;

template <auto kFree>
struct Freeing {
  template <typename T>
  void operator()(T *object) const {
    kFree(object);
  }
};
using Bio = std::unique_ptr<BIO, Freeing<BIO_free_all>>;
using Key = std::unique_ptr<EVP_PKEY, Freeing<EVP_PKEY_free>>;
using Context = std::unique_ptr<EVP_MD_CTX, Freeing<EVP_MD_CTX_free>>;

const unsigned char *bytes_of(const std::string &text) {
  return reinterpret_cast<const unsigned char *>(text.data());
}

// SHA-256 of what is added, as 64 hexadecimal digits.
class Digest {
 public:
  Digest() : context_(EVP_MD_CTX_new()) {
    require(context_ && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1);
  }
  void add(const void *data, size_t count) {
    require(EVP_DigestUpdate(context_.get(), data, count) == 1);
  }
  std::string hex() {
    unsigned char bytes[EVP_MAX_MD_SIZE];
    unsigned count = 0;
    require(EVP_DigestFinal_ex(context_.get(), bytes, &count) == 1);
    std::string text;
    for (unsigned i = 0; i < count; ++i) {
      text += "0123456789abcdef"[bytes[i] >> 4];
      text += "0123456789abcdef"[bytes[i] & 15];
    }
    return text;
  }

 private:
  static void require(bool done) {
    if (!done) fail("OpenSSL makes no SHA-256");
  }
  Context context_;
};

// The bytes that hexadecimal digits stand for.
std::string from_hex(const std::string &text) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string bytes;
  for (size_t i = 0; i < text.size(); i += 2) {
    const std::string pair = text.substr(i, 2);
    if (pair.size() != 2 || pair.find_first_not_of(kDigits) != std::string::npos) {
      throw std::invalid_argument("not hexadecimal");
    }
    bytes += static_cast<char>(std::stoi(pair, nullptr, 16));
  }
  return bytes;
}

std::string from_base64(const std::string &text) {
  std::string bytes(text.size() / 4 * 3 + 3, '\0');
  const int count = EVP_DecodeBlock(reinterpret_cast<unsigned char *>(bytes.data()), bytes_of(text),
                                    static_cast<int>(text.size()));
  const auto padding = text.size() - std::min(text.size(), text.find_last_not_of('=') + 1);
  if (count < static_cast<int>(padding)) throw std::invalid_argument("not base64");
  bytes.resize(static_cast<size_t>(count) - padding);
  return bytes;
}

// A public key and the digest that signatures with it are over.
struct Trusted {
  Key key;
  const EVP_MD *digest = nullptr;
};

Trusted read_key(const std::string &path) {
  const auto unusable = [&path](const std::string &reason, gemma3_status status = GEMMA3_USAGE) {
    refuse(status,
           path + ": cannot verify with it: " + reason +
               "; expected a PEM file of a public elliptic-curve key (P-256, P-384 or P-521)");
  };
  std::string pem;
  gemma3_status status = GEMMA3_USAGE;
  try {
    const File file(path);
    if (file.size() <= kMaxKeyBytes) pem = file.read(0, static_cast<size_t>(file.size()));
  } catch (const Error &error) {
    pem.clear();
    status = error.status();
  }
  if (pem.empty()) unusable("it cannot be read", status);
  if (pem.find("-----BEGIN CERTIFICATE-----") != std::string::npos) {
    refuse("require_signature: " + path +
           " is a certificate, and libgemma3 verifies with keys "
           "only; check the bundle with gemma3-bundle verify --certificate " +
           path);
  }
  const Bio bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  Trusted trusted{Key(PEM_read_bio_PUBKEY(bio.get(), nullptr, nullptr, nullptr)), nullptr};
  if (!trusted.key) unusable("it holds no public key");
  char curve[64] = "";
  size_t length = 0;
  EVP_PKEY_get_utf8_string_param(trusted.key.get(), OSSL_PKEY_PARAM_GROUP_NAME, curve, sizeof curve,
                                 &length);
  const std::string name(curve);
  if (name == "prime256v1") trusted.digest = EVP_sha256();
  if (name == "secp384r1") trusted.digest = EVP_sha384();
  if (name == "secp521r1") trusted.digest = EVP_sha512();
  if (trusted.digest == nullptr) unusable("its kind is another");
  return trusted;
}

// What signatures name a key by.
std::string fingerprint(const Key &key) {
  const Bio bio(BIO_new(BIO_s_mem()));
  PEM_write_bio_PUBKEY(bio.get(), key.get());
  char *text = nullptr;
  const long count = BIO_get_mem_data(bio.get(), &text);
  Digest digest;
  digest.add(text, static_cast<size_t>(count));
  return digest.hex();
}

// Relative, and nowhere out of the bundle.
bool is_inside(const std::string &path) {
  if (path.empty() || path[0] == '/') return false;
  const std::string parts = "/" + path + "/";
  return parts.find("/../") == std::string::npos && path.find('\0') == std::string::npos;
}

// What a signature file holds. Nothing of it is to be believed before `is_by`.
struct SignedFile {
  std::string hint, payload, signature;
  bool by_key = false;
  Json statement;
  std::map<std::string, std::string> digests;  // of each file

  // Throws for another file than a signature.
  SignedFile(const std::string &text, const std::string &where) {
    const Json bundle = parse_json(text, where);
    if (bundle.at("mediaType") != kMediaType) throw std::invalid_argument("another media type");
    const Json &material = bundle.at("verificationMaterial");
    by_key = material.contains("publicKey");
    if (by_key) hint = material.at("publicKey").value("hint", "");
    const Json &envelope = bundle.at("dsseEnvelope");
    if (envelope.at("payloadType") != kPayloadType) throw std::invalid_argument("another payload");
    payload = from_base64(envelope.at("payload").get<std::string>());
    signature = from_base64(envelope.at("signatures").at(0).at("sig").get<std::string>());
    statement = parse_json(payload, where);
    for (const Json &resource : resources()) {
      const auto name = resource.at("name").get<std::string>();
      digests[name] = resource.at("digest").get<std::string>();
    }
  }

  const Json &resources() const { return statement.at("predicate").at("resources"); }

  bool is_by(const Trusted &trusted) const {
    const std::string message = "DSSEv1 " + std::to_string(sizeof kPayloadType - 1) + " " +
                                kPayloadType + " " + std::to_string(payload.size()) + " " + payload;
    const Context context(EVP_MD_CTX_new());
    return context &&
           EVP_DigestVerifyInit(context.get(), nullptr, trusted.digest, nullptr,
                                trusted.key.get()) == 1 &&
           EVP_DigestVerify(context.get(), bytes_of(signature), signature.size(), bytes_of(message),
                            message.size()) == 1;
  }

  // Whether the statement is of the kind that we read, and whole.
  bool is_sound() const try {
    if (statement.at("_type") != kStatementType) return false;
    if (statement.at("predicateType") != kPredicateType) return false;
    if (resources().size() != digests.size()) return false;  // a name given twice
    Digest all;
    for (const Json &resource : resources()) {
      if (resource.at("algorithm") != "sha256") return false;
      const std::string digest = from_hex(resource.at("digest").get<std::string>());
      all.add(digest.data(), digest.size());
    }
    return statement.at("subject").at(0).at("digest").at("sha256") == all.hex();
  } catch (const std::exception &) {
    return false;
  }
};

SignedFile read_signature(const Bundle &bundle, const std::string &where) {
  int error = 0;
  const std::shared_ptr<const File> file = bundle.find(kSignature, error);
  if (file == nullptr || file->through_link()) {
    refuse(GEMMA3_NOT_FOUND,
           where +
               ": expected a signature, got none; sign the bundle with gemma3-bundle sign, or "
               "take it from whoever made it");
  }
  try {
    if (file->size() > kMaxSignatureBytes) throw std::invalid_argument("too large");
    return SignedFile(file->read(0, static_cast<size_t>(file->size())), where);
  } catch (const std::bad_alloc &) {
    throw;
  } catch (const std::exception &) {
    refuse(where + ": expected a signature by model-signing of at most " +
           std::to_string(kMaxSignatureBytes) +
           " bytes, got another file; sign the bundle again with gemma3-bundle sign");
  }
}

// Every file of the bundle must be there, and none that leads elsewhere.
void check_names(const Bundle &bundle, const SignedFile &signature, const std::string &where) {
  for (const auto &[name, digest] : signature.digests) {
    if (is_inside(name)) continue;
    refuse(where + ": expected paths inside the bundle, got " + to_text(Json(name)) +
           "; sign the bundle again with gemma3-bundle sign");
  }
  std::vector<std::string> needed{kManifest};
  for (const FileRecord &record : bundle.manifest().files) needed.push_back(record.path);
  for (const std::string &name : needed) {
    if (signature.digests.count(name) > 0) continue;
    refuse(GEMMA3_INTEGRITY,
           where + ": expected a signature of every file of the bundle, got one without " + name +
               "; sign the bundle again with gemma3-bundle sign");
  }
}

// Why a file is not what was signed; empty when it is.
std::string difference(const Bundle &bundle, const std::string &name, const std::string &sha256,
                       bool contents, const Between &between) {
  const std::string changed = name + " is not what was signed";
  if (name == kManifest) return bundle.digest() == sha256 ? "" : changed;
  int error = 0;
  const std::shared_ptr<const File> file = bundle.find(name, error);
  if (error == ENOENT) return name + " is missing";
  if (file == nullptr || file->through_link()) return name + " is not a file that can be read";
  if (const FileRecord *record = bundle.find_record(name)) {
    if (record->sha256 != sha256) return changed;
    if (!contents && bundle.keeps(name)) return "";
  }
  constexpr int64_t kPiece = 1 << 20;
  Digest digest;
  std::vector<char> piece(static_cast<size_t>(std::min(kPiece, file->size())));
  for (int64_t at = 0; at < file->size(); at += kPiece) {
    if (between) between();
    const auto count = static_cast<size_t>(std::min(kPiece, file->size() - at));
    file->read_into(piece.data(), at, count);
    digest.add(piece.data(), count);
  }
  return digest.hex() == sha256 ? "" : changed;
}

}  // namespace

void verify_signature(const Bundle &bundle, const std::string &key, bool weights,
                      const Between &between) {
  const std::string where = bundle.root() + "/" + kSignature;
  const Trusted trusted = read_key(key);
  const SignedFile signature = read_signature(bundle, where);
  if (!signature.by_key) {
    refuse(where +
           ": expected a signature with a key, got one with a certificate, which libgemma3 "
           "does not verify; check the bundle with gemma3-bundle verify --certificate ROOT, or "
           "have it signed with a key");
  }
  check_names(bundle, signature, where);
  const auto refuse_it = [&](const std::string &reason) {
    refuse(GEMMA3_INTEGRITY,
           where + ": not a signature of this bundle by " + key + ": " + reason +
               "; take the bundle again from whoever made it, or check which key signed it");
  };
  if (!signature.hint.empty() && signature.hint != fingerprint(trusted.key)) {
    refuse_it("another key signed it");
  }
  if (!signature.is_by(trusted)) refuse_it("the signature is not valid");
  if (!signature.is_sound()) refuse_it("it states something else than digests of files");
  for (const auto &[name, digest] : signature.digests) {
    const std::string why = difference(bundle, name, digest, weights, between);
    if (!why.empty()) refuse_it(why);
  }
  bundle.vouch();
}

}  // namespace gemma3
