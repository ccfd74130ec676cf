noinst_LIBRARIES += libtext.a
libtext_a_SOURCES = \
	%D%/tokenizer.h \
	%D%/chat.h \
	%D%/dataset.h \
	%D%/batch.h \
	# end
libtext_a_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS) $(PCRE2_CFLAGS)
