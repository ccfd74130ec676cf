# tests of formats
EXTRA_DIST += \
	tests/golden/make_tiny_model.py \
	tests/golden/tiny.gguf \
	tests/golden/make_dequantize.py \
	tests/golden/dequantize.gguf \
	tests/golden/make_fingerprint.py \
	# end
if HAVE_CHECK
check_PROGRAMS += tests/check_gguf
tests_check_gguf_SOURCES = tests/check_gguf.c tests/lib/gguf_build.h tests/lib/gguf_build.c
tests_check_gguf_CPPFLAGS = $(AM_CPPFLAGS) $(CHECK_CFLAGS)
tests_check_gguf_LDADD = $(FORMATS_LIBS) $(CHECK_LIBS) -lm
check_PROGRAMS += tests/check_model_file
tests_check_model_file_SOURCES = tests/check_model_file.c tests/lib/gguf_build.h tests/lib/gguf_build.c
tests_check_model_file_CPPFLAGS = $(AM_CPPFLAGS) $(CHECK_CFLAGS)
tests_check_model_file_LDADD = $(FORMATS_LIBS) $(CHECK_LIBS) -lm
check_PROGRAMS += tests/check_model_folder
tests_check_model_folder_SOURCES = tests/check_model_folder.c tests/lib/model_stage.h tests/lib/model_stage.c
tests_check_model_folder_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests $(CHECK_CFLAGS) $(JANSSON_CFLAGS)
tests_check_model_folder_LDADD = $(FORMATS_LIBS) $(CHECK_LIBS) -lm
check_PROGRAMS += tests/check_safetensors
tests_check_safetensors_SOURCES = tests/check_safetensors.c
tests_check_safetensors_CPPFLAGS = $(AM_CPPFLAGS) $(CHECK_CFLAGS) $(JANSSON_CFLAGS)
tests_check_safetensors_LDADD = $(FORMATS_LIBS) $(CHECK_LIBS) -lm
check_PROGRAMS += tests/check_hostile_files
tests_check_hostile_files_SOURCES = tests/check_hostile_files.c \
	tests/lib/counted_malloc.h tests/lib/counted_malloc.c tests/lib/gguf_build.h tests/lib/gguf_build.c
tests_check_hostile_files_CPPFLAGS = $(AM_CPPFLAGS) $(CHECK_CFLAGS) $(JANSSON_CFLAGS)
tests_check_hostile_files_LDADD = $(FORMATS_LIBS) $(CHECK_LIBS) -lm
tests_check_hostile_files_LDFLAGS = $(AM_LDFLAGS) -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=free
check_PROGRAMS += tests/check_json
tests_check_json_SOURCES = tests/check_json.c
tests_check_json_CPPFLAGS = $(AM_CPPFLAGS) $(CHECK_CFLAGS) $(JANSSON_CFLAGS)
tests_check_json_LDADD = $(FORMATS_LIBS) $(CHECK_LIBS) -lm
check_PROGRAMS += tests/check_peft
tests_check_peft_SOURCES = tests/check_peft.c
tests_check_peft_CPPFLAGS = $(AM_CPPFLAGS) $(CHECK_CFLAGS) $(JANSSON_CFLAGS)
tests_check_peft_LDADD = $(FORMATS_LIBS) $(CHECK_LIBS) -lm
check_PROGRAMS += tests/check_export
tests_check_export_SOURCES = tests/check_export.c
tests_check_export_CPPFLAGS = $(AM_CPPFLAGS) $(CHECK_CFLAGS) $(JANSSON_CFLAGS)
tests_check_export_LDADD = $(TEXT_LIBS) $(CHECK_LIBS) -lm
endif
check_PROGRAMS += tests/fuzz/fuzz_gguf tests/fuzz/fuzz_safetensors tests/fuzz/fuzz_peft tests/fuzz/fuzz_model_config
tests_fuzz_fuzz_gguf_SOURCES = tests/fuzz/fuzz_gguf.c
tests_fuzz_fuzz_gguf_LDADD = $(FORMATS_LIBS)
tests_fuzz_fuzz_safetensors_SOURCES = tests/fuzz/fuzz_safetensors.c
tests_fuzz_fuzz_safetensors_LDADD = $(FORMATS_LIBS)
tests_fuzz_fuzz_peft_SOURCES = tests/fuzz/fuzz_peft.c
tests_fuzz_fuzz_peft_LDADD = $(FORMATS_LIBS) -lm
tests_fuzz_fuzz_model_config_SOURCES = tests/fuzz/fuzz_model_config.c
tests_fuzz_fuzz_model_config_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
tests_fuzz_fuzz_model_config_LDADD = $(FORMATS_LIBS) -lm
if FUZZING
tests_fuzz_fuzz_model_config_LDFLAGS = $(AM_LDFLAGS) -fsanitize=fuzzer
tests_fuzz_fuzz_gguf_LDFLAGS = $(AM_LDFLAGS) -fsanitize=fuzzer
tests_fuzz_fuzz_safetensors_LDFLAGS = $(AM_LDFLAGS) -fsanitize=fuzzer
tests_fuzz_fuzz_peft_LDFLAGS = $(AM_LDFLAGS) -fsanitize=fuzzer
else
tests_fuzz_fuzz_model_config_SOURCES += tests/fuzz/replay.c
tests_fuzz_fuzz_gguf_SOURCES += tests/fuzz/replay.c
tests_fuzz_fuzz_safetensors_SOURCES += tests/fuzz/replay.c
tests_fuzz_fuzz_peft_SOURCES += tests/fuzz/replay.c
endif
EXTRA_DIST += tests/fuzz/make_corpus.py tests/fuzz/corpus/gguf tests/fuzz/corpus/safetensors tests/fuzz/corpus/peft \
	tests/fuzz/corpus/model_config
