noinst_LIBRARIES += libtext.a
libtext_a_SOURCES = \
	%D%/tokenizer.h %D%/tokenizer.c %D%/tokenizer_gguf.c \
	%D%/vocabulary.h %D%/vocabulary.c \
	%D%/bpe.h %D%/bpe.c \
	%D%/chat.h %D%/chat.c \
	%D%/jsonl.h %D%/jsonl.c \
	%D%/row.h %D%/row.c \
	%D%/dataset.h %D%/dataset.c \
	%D%/batch.h %D%/batch.c \
	# end
libtext_a_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS) $(PCRE2_CFLAGS)
