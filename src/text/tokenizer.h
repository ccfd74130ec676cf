/* SPDX-License-Identifier: Apache-2.0 */
/* BPE tokenizers, built from what a GGUF file or a folder of Hugging Face's says about its own, equal to Hugging Face's
 * tokenizers. A tokenizer never changes once it is made, so any number of threads may share one; each brings a scratch
 * of its own.
 *
 * GGUF: model "gpt2" (byte-level BPE) with pre gpt-2, llama-bpe, qwen2 or smollm, and model "llama" (SentencePiece's BPE
 * with scores: Llama 2, Mistral).
 * tokenizer.json: model BPE with byte_fallback, ignore_merges, unk_token and fuse_unk; normalizers NFC, NFD, NFKC, NFKD,
 * Lowercase, Strip, Prepend, Replace, Sequence; pre-tokenizers Split, Digits, ByteLevel (as the last one), Metaspace,
 * Sequence; post-processors TemplateProcessing with at most one token on each side, ByteLevel, Sequence; decoders
 * ByteLevel, Metaspace, and a Sequence of Replace, ByteFallback, Fuse, Strip in that order; added tokens with all their
 * flags. Everything else (WordPiece, Unigram, WordLevel, dropout, affixes of words) is refused by name. Two things
 * differ from Hugging Face on purpose: added tokens decode as their own names, not as the bytes that their letters stand
 * for in the byte-level alphabet, nor normalized; and no merge makes a control token, so that no row can. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/hash.h"
#include "formats/gguf.h"
#include "formats/model_file.h"

/* The longest text one call encodes, in bytes: merging takes 36 bytes of memory a byte of its longest word. */
#define TOKENIZER_MAX_TEXT ((size_t)16 << 20)

/* Borrowed bytes; no NUL after them is promised. */
struct text_span {
	const char *data;
	size_t size;
};

/* GGUF's numbers for the kinds of token. */
enum tokenizer_token_type {
	TOKEN_NORMAL = 1,
	TOKEN_UNKNOWN = 2,
	TOKEN_CONTROL = 3,
	TOKEN_USER_DEFINED = 4,
	TOKEN_UNUSED = 5,
	TOKEN_BYTE = 6,
};

/* The metadata a tokenizer is built from, borrowed until tokenizer_new returns. Ids that the file lacks are -1. All of it belongs into the
 * identity (hash_source in tokenizer_gguf.c). */
struct tokenizer_source {
	struct gguf_text model;         /* "gpt2" or "llama" */
	struct gguf_text pre;           /* of "gpt2": "gpt-2", "llama-bpe", "qwen2" or "smollm" */
	const struct gguf_text *tokens; /* of "gpt2" in the byte-level alphabet ("Ġthe"), control tokens as they are */
	const int32_t *token_types;     /* enum tokenizer_token_type; NULL: all normal */
	size_t token_count;
	const struct gguf_text *merges; /* of "gpt2": "left right", best first */
	size_t merge_count;
	const float *scores; /* of "llama": the token with the highest one is merged first */
	int32_t bos, eos, unknown, padding;
	bool add_bos, add_eos;
	bool add_space_prefix;          /* of "llama": each text begins as if a blank stood before it */
	struct gguf_text chat_template; /* data NULL: the model has none */
};

/* What a GGUF file's metadata say; texts stay borrowed from it, tokenizer_source_fini frees the rest (safe on a zeroed struct). Whether it makes
 * sense is for tokenizer_new. */
int tokenizer_source_read(struct tokenizer_source *out, const struct gguf *gguf, struct fault *f);
void tokenizer_source_fini(struct tokenizer_source *s);

struct tokenizer;
struct tokenizer_scratch;

/* Bytes that the vocabulary has no token for vanish (SmolLM2 lacks a few control characters): so does Hugging Face, and
 * with it the data the model was trained on.
 *
 * Refuses, by name, a model or pre-tokenizer it does not know, and merges or ids that point outside the vocabulary.
 * On success the caller owns *out. */
int tokenizer_new(struct tokenizer **out, const struct tokenizer_source *source, struct fault *f);
/* The same from a GGUF file's metadata, which may be closed afterwards. */
int tokenizer_from_gguf(struct tokenizer **out, const struct gguf *gguf, struct fault *f);
/* The same from a folder of Hugging Face's: tokenizer.json, which must be there, and what tokenizer_config.json,
 * chat_template.jinja, generation_config.json and config.json say beside it. An explicit add_bos_token or add_eos_token
 * decides over the post-processor's template; EOS is tokenizer_config's eos_token, else the first eos_token_id of the
 * last two files. */
int tokenizer_from_folder(struct tokenizer **out, const char *directory, struct fault *f);
/* Whether a model brings a tokenizer: a GGUF file that has one does, and a folder with a tokenizer.json; shape:NAME does not. */
bool tokenizer_in_model(const struct model_file *mf);
/* The model's own tokenizer, or that of the model at `path`, which need not be one that is trained. SAKIORI_ENOTFOUND, with what to
 * do, where it brings none. */
int tokenizer_of_model(struct tokenizer **out, const struct model_file *mf, struct fault *f);
int tokenizer_of_path(struct tokenizer **out, const char *path, struct fault *f);
void tokenizer_free(struct tokenizer *t);

/* Digest of the source that t was built from: two tokenizers with equal ones give the same ids for the same text. */
void tokenizer_identity(const struct tokenizer *t, uint8_t out[static HASH_SIZE]);

/* Working memory of one thread: a match block, texts on their way, the merge heap and a bounded cache of words already
 * merged. */
struct tokenizer_scratch *tokenizer_scratch_new(const struct tokenizer *t);
void tokenizer_scratch_free(struct tokenizer_scratch *s);

/* Take control tokens out of the text ("<|im_end|>" becomes one id). Never for data rows: there such characters are
 * ordinary text, so that no row can speak as the template. User-defined tokens are taken out always. */
#define TOKENIZER_SPECIAL 1u
/* Decode to UTF-8 whatever the ids are: what is no whole character becomes U+FFFD, as Hugging Face decodes. */
#define TOKENIZER_REPLACE 2u

/* A growing list of ids; zero it before the first use, token_list_fini frees it. */
struct token_list {
	int32_t *ids;
	size_t count;
	size_t capacity;
};
void token_list_add(struct token_list *list, int32_t id);
void token_list_fini(struct token_list *list);

/* Appends the ids of `size` bytes of UTF-8 to *out. Adds neither BOS nor EOS. Text that is not UTF-8 is refused with
 * the offset of its first bad byte, text above TOKENIZER_MAX_TEXT, text that grows over sixteenfold in
 * the normalizers, and text over which a pattern of the file needs too many steps, with SAKIORI_ELIMIT; *out is then as
 * before. */
int tokenizer_encode(const struct tokenizer *t, struct tokenizer_scratch *s, const char *text, size_t size,
	unsigned flags, struct token_list *out, struct fault *f);

/* The bytes of one token, borrowed from t: of a normal token what it stands for (perhaps part of a UTF-8 character), of
 * a control token its name. {NULL, 0} for an id outside the vocabulary. */
struct text_span tokenizer_token(const struct tokenizer *t, int32_t id);
/* True for control tokens, which a reader of the decoded text should not see. */
bool tokenizer_is_control(const struct tokenizer *t, int32_t id);
/* Joins the tokens' bytes into fresh memory with a NUL after it (not counted in *size); the caller frees *text. Control
 * tokens are left out unless flags has TOKENIZER_SPECIAL. An id outside the vocabulary is refused. The bytes are UTF-8
 * only where the ids end on whole characters, or flags has TOKENIZER_REPLACE. */
int tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t count, unsigned flags, char **text,
	size_t *size, struct fault *f);

/* Tokens in the vocabulary: every id is below it. */
size_t tokenizer_size(const struct tokenizer *t);
/* The token that begins a sequence, or -1 where the tokenizer says that none is added. */
int32_t tokenizer_bos(const struct tokenizer *t);
/* The token that the file names BOS, added or not, or -1. */
int32_t tokenizer_bos_name(const struct tokenizer *t);
/* The token that ends a sequence, or -1 when the file names none. */
int32_t tokenizer_eos(const struct tokenizer *t);
/* The first control or user-defined token at or after `at`, the longest where several begin, and its place; -1 when
 * there is none, and *begin and *end then stay. */
int32_t tokenizer_find_special(
	const struct tokenizer *t, const char *text, size_t size, size_t at, size_t *begin, size_t *end);
/* The token that the tokenizer itself adds to the end of every text, or -1, which is the rule. */
int32_t tokenizer_added_eos(const struct tokenizer *t);
/* The control or user-defined token with exactly this name, or -1. */
int32_t tokenizer_special(const struct tokenizer *t, const char *name);
/* The file's own chat template, NUL-terminated and owned by t, or NULL. */
const char *tokenizer_chat_template(const struct tokenizer *t);
