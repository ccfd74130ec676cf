if HAVE_CHECK
TEXT_TEST_CPPFLAGS = $(AM_CPPFLAGS) $(CHECK_CFLAGS) $(JANSSON_CFLAGS)
TEXT_TEST_LIBS = $(TEXT_LIBS) $(CHECK_LIBS) -lm

check_PROGRAMS += tests/check_tokenizer
tests_check_tokenizer_SOURCES = tests/check_tokenizer.c
tests_check_tokenizer_CPPFLAGS = $(TEXT_TEST_CPPFLAGS)
tests_check_tokenizer_LDADD = $(TEXT_TEST_LIBS)

check_PROGRAMS += tests/check_jinja
tests_check_jinja_SOURCES = tests/check_jinja.c
tests_check_jinja_CPPFLAGS = $(TEXT_TEST_CPPFLAGS)
tests_check_jinja_LDADD = $(TEXT_TEST_LIBS)

check_PROGRAMS += tests/check_tokenizer_json
tests_check_tokenizer_json_SOURCES = tests/check_tokenizer_json.c
tests_check_tokenizer_json_CPPFLAGS = $(TEXT_TEST_CPPFLAGS)
tests_check_tokenizer_json_LDADD = $(TEXT_TEST_LIBS)

check_PROGRAMS += tests/check_chat
tests_check_chat_SOURCES = tests/check_chat.c
tests_check_chat_CPPFLAGS = $(TEXT_TEST_CPPFLAGS)
tests_check_chat_LDADD = $(TEXT_TEST_LIBS)

check_PROGRAMS += tests/check_dataset
tests_check_dataset_SOURCES = tests/check_dataset.c
tests_check_dataset_CPPFLAGS = $(TEXT_TEST_CPPFLAGS)
tests_check_dataset_LDADD = $(TEXT_TEST_LIBS)

check_PROGRAMS += tests/check_token_cache
tests_check_token_cache_SOURCES = tests/check_token_cache.c
tests_check_token_cache_CPPFLAGS = $(TEXT_TEST_CPPFLAGS)
tests_check_token_cache_LDADD = $(TEXT_TEST_LIBS)

check_PROGRAMS += tests/check_cli
tests_check_cli_SOURCES = tests/check_cli.c src/cli/cli.h src/cli/cli.c
tests_check_cli_CPPFLAGS = $(TEXT_TEST_CPPFLAGS)
tests_check_cli_LDADD = $(JANSSON_LIBS) $(BASE_LIBS) $(CHECK_LIBS) -lm
endif

check_PROGRAMS += tests/fuzz/fuzz_jsonl tests/fuzz/fuzz_flat
tests_fuzz_fuzz_jsonl_SOURCES = tests/fuzz/fuzz_jsonl.c
tests_fuzz_fuzz_jsonl_LDADD = $(TEXT_LIBS) -lm
tests_fuzz_fuzz_flat_SOURCES = tests/fuzz/fuzz_flat.c
tests_fuzz_fuzz_flat_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
tests_fuzz_fuzz_flat_LDADD = $(TEXT_LIBS) -lm
if FUZZING
tests_fuzz_fuzz_jsonl_LDFLAGS = $(AM_LDFLAGS) -fsanitize=fuzzer
tests_fuzz_fuzz_flat_LDFLAGS = $(AM_LDFLAGS) -fsanitize=fuzzer
else
tests_fuzz_fuzz_jsonl_SOURCES += tests/fuzz/replay.c
tests_fuzz_fuzz_flat_SOURCES += tests/fuzz/replay.c
endif
check_PROGRAMS += tests/fuzz/fuzz_jinja
tests_fuzz_fuzz_jinja_SOURCES = tests/fuzz/fuzz_jinja.c
tests_fuzz_fuzz_jinja_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
tests_fuzz_fuzz_jinja_LDADD = $(TEXT_LIBS) -lm
if FUZZING
tests_fuzz_fuzz_jinja_LDFLAGS = $(AM_LDFLAGS) -fsanitize=fuzzer
else
tests_fuzz_fuzz_jinja_SOURCES += tests/fuzz/replay.c
endif

check_PROGRAMS += tests/fuzz/fuzz_tokenizer_json
tests_fuzz_fuzz_tokenizer_json_SOURCES = tests/fuzz/fuzz_tokenizer_json.c
tests_fuzz_fuzz_tokenizer_json_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
tests_fuzz_fuzz_tokenizer_json_LDADD = $(TEXT_LIBS) -lm
if FUZZING
tests_fuzz_fuzz_tokenizer_json_LDFLAGS = $(AM_LDFLAGS) -fsanitize=fuzzer
else
tests_fuzz_fuzz_tokenizer_json_SOURCES += tests/fuzz/replay.c
endif
EXTRA_DIST += \
	tests/fuzz/corpus/jinja \
	tests/fuzz/corpus/flat \
	tests/fuzz/corpus/jsonl \
	tests/fuzz/corpus/tokenizer_json \
	tests/golden/make_tokenizer_families.py \
	tests/golden/tokenizer_families.json \
	bench/tokenizer_parity.py \
	build-aux/unicode_case.py \
	tests/golden/chat_golden.json \
	tests/golden/make_chats.py \
	tests/golden/make_templates.py \
	tests/golden/make_tokenizer_golden.py \
	tests/golden/template_golden.json \
	tests/golden/tokenizer_golden.json \
	tests/golden/tokenizer_parity.json \
	# end
