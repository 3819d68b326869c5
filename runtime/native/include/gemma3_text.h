/*
 * Text and pictures for gemma3.h: the tokenizer of a bundle, text of tokens as they come, chats,
 * and pictures as the pixels that a model looks at. Part of libgemma3; the same ids, texts and
 * refusals as gemma3-run and gemma3-host.
 *
 *     gemma3_tokenizer *tokenizer;
 *     gemma3_model_tokenizer(model, &tokenizer, &error);
 *     gemma3_message message = {"user", "Who walked on the Moon first?"};
 *     gemma3_chat chat = {sizeof chat, &message, sizeof message, 1};
 *     int32_t *tokens;
 *     size_t count;
 *     gemma3_chat_prompt(tokenizer, &chat, &tokens, &count, &error);
 *     gemma3_prompt prompt = {tokens, count};
 *     gemma3_request request = {sizeof request, &prompt, sizeof prompt, 1, 64};
 *
 * The contract of gemma3.h holds here too. Besides:
 * - One rule for everything that a function gives, ids, texts and pixels alike: it is allocated for
 *   the caller, who passes it to gemma3_free. Texts have a NUL after their last byte.
 * - Beside each array of structs stands the size of an element, as sizeof gives it.
 * - Texts that are taken are UTF-8; what is not is refused. Where a length stands beside a text it
 *   counts bytes, and GEMMA3_TO_NUL stands for all of them before a NUL.
 * - A gemma3_tokenizer may be used by several threads at once, a gemma3_text_stream by one at a
 *   time. Handles may be closed in any order, those of gemma3.h included: each keeps what it needs.
 */
#ifndef GEMMA3_TEXT_H_
#define GEMMA3_TEXT_H_

#include "gemma3.h"

#ifdef __cplusplus
extern "C" {
#endif

/* In place of the length of a text that ends with a NUL. */
#define GEMMA3_TO_NUL ((size_t)-1)

/* Flags; each function says which it takes. */
enum {
  GEMMA3_NO_BOS = 1,        /* no <bos> first, whatever the bundle says */
  GEMMA3_PARSE_SPECIAL = 2, /* control tokens written in a text, such as <start_of_turn>, become
                               those tokens. Not for texts of strangers, who could write turns of
                               the model. Without it they stay text, as in gemma3-run --prompt */
  GEMMA3_WHOLE_TEXT = 4,    /* the text is to be classified or embedded: the end token follows it
                               where the bundle says so (add_eos) */
  GEMMA3_SHOW_SPECIAL = 8, /* control tokens give their piece, where they give nothing without it */
  GEMMA3_PAN_AND_SCAN = 16, /* long pictures are followed by crops of them */
};

/* ---------------------------------------------------------------- the tokenizer */

/* A tokenizer, and how prompts of its bundle are written. */
typedef struct gemma3_tokenizer gemma3_tokenizer;

/* The tokenizer of a bundle: bytes that have the digest of the manifest, or none. */
GEMMA3_API gemma3_status gemma3_bundle_tokenizer(const gemma3_bundle *bundle,
                                                 gemma3_tokenizer **tokenizer, gemma3_error *error);

/* The same of the bundle that a model was opened from. */
GEMMA3_API gemma3_status gemma3_model_tokenizer(const gemma3_model *model,
                                                gemma3_tokenizer **tokenizer, gemma3_error *error);

/*
 * A tokenizer from `count` bytes of a SentencePiece model, which are copied. Texts begin with
 * `bos_token_id`, -1 being the piece <bos>. Of images and end tokens it knows nothing.
 */
GEMMA3_API gemma3_status gemma3_tokenizer_read(const uint8_t *bytes, size_t count,
                                               int32_t bos_token_id, gemma3_tokenizer **tokenizer,
                                               gemma3_error *error);

/* Closes a tokenizer; NULL is allowed. */
GEMMA3_API void gemma3_tokenizer_close(gemma3_tokenizer *tokenizer);

/* How many pieces there are. A model may have more ids, which decode to nothing. */
GEMMA3_API gemma3_status gemma3_tokenizer_size(const gemma3_tokenizer *tokenizer, size_t *pieces,
                                               gemma3_error *error);

/* Kinds of pieces, numbered as in the file. */
enum {
  GEMMA3_PIECE_NORMAL = 1,
  GEMMA3_PIECE_UNKNOWN = 2,
  GEMMA3_PIECE_CONTROL = 3,
  GEMMA3_PIECE_USER_DEFINED = 4,
  GEMMA3_PIECE_UNUSED = 5,
  GEMMA3_PIECE_BYTE = 6, /* <0x00> to <0xFF> */
};

/* The piece of token `token` as the file has it (a space is U+2581), and, unless NULL, its kind. */
GEMMA3_API gemma3_status gemma3_tokenizer_piece(const gemma3_tokenizer *tokenizer, int32_t token,
                                                char **piece, int32_t *kind, gemma3_error *error);

/* The token of a piece, for example "<end_of_turn>". GEMMA3_USAGE where there is no such piece. */
GEMMA3_API gemma3_status gemma3_tokenizer_token(const gemma3_tokenizer *tokenizer,
                                                const char *piece, int32_t *token,
                                                gemma3_error *error);

/*
 * The ids of a text, after <bos> where the bundle says so. `flags`: GEMMA3_NO_BOS,
 * GEMMA3_PARSE_SPECIAL, GEMMA3_WHOLE_TEXT.
 */
GEMMA3_API gemma3_status gemma3_encode(const gemma3_tokenizer *tokenizer, const char *text,
                                       size_t length, uint32_t flags, int32_t **tokens,
                                       size_t *count, gemma3_error *error);

/*
 * The text of ids, and, unless NULL, how many bytes it has: it may have NULs in it. Bytes that are
 * no character become U+FFFD; control tokens, and ids that are no piece, give nothing. `flags`:
 * GEMMA3_SHOW_SPECIAL.
 */
GEMMA3_API gemma3_status gemma3_decode(const gemma3_tokenizer *tokenizer, const int32_t *tokens,
                                       size_t count, uint32_t flags, char **text, size_t *length,
                                       gemma3_error *error);

/* ---------------------------------------------------------------- text as it comes */

/*
 * The text of one row as it grows, in whole characters and cut before the first stop text. Text that
 * may be the beginning of a stop text is held back until it cannot.
 */
typedef struct gemma3_text_stream gemma3_text_stream;

typedef struct gemma3_text_stream_options {
  size_t size;
  const char *const *stop_texts; /* none empty, at most 4096 bytes each; a control token alone, such
                                    as "<end_of_turn>", ends the text at that token */
  size_t stop_count;             /* at most 256 */
  uint32_t flags;                /* GEMMA3_SHOW_SPECIAL */
} gemma3_text_stream_options;

/* Opens a stream; `options` NULL: no stop texts, no flags. */
GEMMA3_API gemma3_status gemma3_text_stream_open(const gemma3_tokenizer *tokenizer,
                                                 const gemma3_text_stream_options *options,
                                                 gemma3_text_stream **stream, gemma3_error *error);

/*
 * The text that `token` makes certain, often none; and, unless NULL, its bytes, and whether a stop
 * text has come: then no more text comes until gemma3_text_stream_flush, and a callback answers
 * GEMMA3_FINISH_ROW. A token told with GEMMA3_FINISH_STOP is no text: do not push it.
 */
GEMMA3_API gemma3_status gemma3_text_stream_push(gemma3_text_stream *stream, int32_t token,
                                                 char **text, size_t *length, int32_t *stopped,
                                                 gemma3_error *error);

/* The text that was held back, once no token follows. The stream is then as when it was opened. */
GEMMA3_API gemma3_status gemma3_text_stream_flush(gemma3_text_stream *stream, char **text,
                                                  size_t *length, gemma3_error *error);

/* Closes a stream; NULL is allowed. */
GEMMA3_API void gemma3_text_stream_close(gemma3_text_stream *stream);

/* ---------------------------------------------------------------- pictures */

/* How a model sees, from its bundle. */
typedef struct gemma3_vision {
  size_t size;
  uint32_t image_size;       /* of a side; pictures are resized to it, the aspect not kept */
  uint32_t tokens_per_image; /* soft tokens in a prompt, between begin and end token */
  uint32_t soft_token_size;
  int32_t begin_token_id, soft_token_id, end_token_id;
  float mean[3], deviation[3]; /* of red, green and blue between 0 and 1 */
} gemma3_vision;

/* Fills what `vision->size` has room for. GEMMA3_USAGE for a model that sees no images. */
GEMMA3_API gemma3_status gemma3_bundle_vision(const gemma3_bundle *bundle, gemma3_vision *vision,
                                              gemma3_error *error);
GEMMA3_API gemma3_status gemma3_model_vision(const gemma3_model *model, gemma3_vision *vision,
                                             gemma3_error *error);

/* The contents of a PNG or JPEG file. */
typedef struct gemma3_picture {
  const uint8_t *bytes;
  size_t count;
} gemma3_picture;

/* Pictures of a prompt, in order. */
typedef struct gemma3_pictures {
  size_t size;
  const gemma3_picture *pictures;
  size_t picture_size, picture_count;
  uint32_t flags; /* GEMMA3_PAN_AND_SCAN */
} gemma3_pictures;

/*
 * Pictures as gemma3_prompt takes them: `pixels` [images,3,image_size,image_size], each followed by
 * its crops. They are turned upright, and what is transparent is over white. `crops`
 * [picture_count], unless NULL, is how many each has. GEMMA3_USAGE for what is no such picture, is
 * damaged or too large, and where the library was built without libpng and libjpeg.
 */
GEMMA3_API gemma3_status gemma3_read_pictures(const gemma3_vision *vision,
                                              const gemma3_pictures *pictures, float **pixels,
                                              size_t *images, uint32_t **crops,
                                              gemma3_error *error);

/* ---------------------------------------------------------------- chats */

/* What somebody says. */
typedef struct gemma3_message {
  const char *role;    /* "user", "assistant" or, first of all, "system" */
  const char *content; /* white space around it is dropped; <start_of_image> stands for a picture */
} gemma3_message;

/* A conversation that the model is to continue. */
typedef struct gemma3_chat {
  size_t size;
  const gemma3_message *messages; /* users and the model in turn, a user first and last */
  size_t message_size, message_count;
  size_t picture_count;  /* of all messages, in order; where there is only one turn, and no place in
                            it, they stand in front of its text */
  const uint32_t *crops; /* [picture_count], of gemma3_read_pictures; NULL: none */
} gemma3_chat;

/*
 * The ids of a conversation, in Gemma's turns: <bos>, turns between <start_of_turn> and
 * <end_of_turn>, and the beginning of the model's. Pictures are written out: begin token, soft
 * tokens, end token. To end the answer, pass the token of <end_of_turn> as a stop token.
 */
GEMMA3_API gemma3_status gemma3_chat_prompt(const gemma3_tokenizer *tokenizer,
                                            const gemma3_chat *chat, int32_t **tokens,
                                            size_t *count, gemma3_error *error);

#ifdef __cplusplus
}
#endif

#endif /* GEMMA3_TEXT_H_ */
