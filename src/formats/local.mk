noinst_LIBRARIES += libformats.a
libformats_a_SOURCES = \
	%D%/json.h %D%/json.c \
	%D%/stored_type.h %D%/stored_type.c \
	%D%/gguf.h %D%/gguf_private.h %D%/gguf.c %D%/gguf_tensors.c \
	%D%/gguf_writer.h %D%/gguf_writer.c \
	%D%/architecture.h %D%/architecture.c \
	%D%/model_file.h %D%/model_file_private.h %D%/model_file.c \
	%D%/model_gguf.c %D%/model_folder.c %D%/model_config.c %D%/model_random.c \
	%D%/tensorboard.h %D%/tensorboard.c \
	%D%/safetensors.h %D%/safetensors.c %D%/safetensors_writer.c \
	%D%/peft.h %D%/peft_private.h %D%/peft.c %D%/peft_write.c %D%/peft_read.c %D%/peft_pattern.c \
	%D%/merge.h %D%/merge.c \
	%D%/export.h %D%/export.c \
	# end
libformats_a_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
