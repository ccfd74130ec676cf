noinst_LIBRARIES += libtext.a
libtext_a_SOURCES = \
	%D%/tokenizer.h %D%/tokenizer_private.h %D%/tokenizer.c %D%/tokenizer_build.c \
	%D%/tokenizer_gguf.c %D%/tokenizer_json.c %D%/tokenizer_folder.c %D%/tokenizer_model.c \
	%D%/pipeline_json.c \
	%D%/added.h %D%/added.c \
	%D%/alphabet.h %D%/alphabet.c \
	%D%/decoder.h %D%/decoder.c \
	%D%/normalize.h %D%/normalize.c \
	%D%/regex.h %D%/regex.c \
	%D%/split.h %D%/split.c \
	%D%/spm.h %D%/spm.c \
	%D%/utf8.h %D%/utf8.c \
	%D%/tokenizer_json_write.h %D%/tokenizer_json_write.c \
	%D%/hugging_face.h %D%/hugging_face.c \
	%D%/vocabulary.h %D%/vocabulary.c \
	%D%/bpe.h %D%/bpe.c \
	%D%/flat.h %D%/flat.c \
	%D%/chat.h %D%/chat.c \
	%D%/jinja.h %D%/jinja_private.h %D%/jinja.c \
	%D%/jinja_lexer.c %D%/jinja_parser.c %D%/jinja_expression.c \
	%D%/jinja_value.c %D%/jinja_string.c %D%/jinja_case.c %D%/jinja_write.c \
	%D%/jinja_run.c %D%/jinja_evaluate.c %D%/jinja_subscript.c \
	%D%/jinja_filters.c %D%/jinja_filters_list.c %D%/jinja_tests.c %D%/jinja_methods.c %D%/jinja_functions.c \
	%D%/jsonl.h %D%/jsonl.c \
	%D%/row.h %D%/row.c \
	%D%/rows.h %D%/rows.c \
	%D%/token_cache.h %D%/token_cache.c \
	%D%/token_cache_folder.h %D%/token_cache_folder.c \
	%D%/dataset.h %D%/dataset.c \
	%D%/batch.h %D%/batch.c \
	# end
libtext_a_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS) $(PCRE2_CFLAGS) $(UTF8PROC_CFLAGS)
