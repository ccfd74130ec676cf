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
endif
