if HAVE_CHECK
check_PROGRAMS += tests/check_lora
tests_check_lora_SOURCES = tests/check_lora.c
tests_check_lora_CPPFLAGS = $(AM_CPPFLAGS) $(CHECK_CFLAGS)
tests_check_lora_LDADD = libtrain.a $(BASE_LIBS) $(CHECK_LIBS) -lm
endif
EXTRA_DIST += tests/golden/adapter.py tests/golden/make_train_golden.py tests/golden/train_golden.safetensors
