noinst_LIBRARIES += libformats.a
libformats_a_SOURCES = \
	%D%/json.h %D%/json.c \
	%D%/stored_type.h %D%/stored_type.c \
	%D%/gguf.h \
	%D%/model_file.h \
	%D%/safetensors.h \
	%D%/peft.h \
	# end
libformats_a_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
