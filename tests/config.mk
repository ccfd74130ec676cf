if DAEMON
if HAVE_CHECK
check_PROGRAMS += tests/check_config
tests_check_config_SOURCES = tests/check_config.c
tests_check_config_CPPFLAGS = $(AM_CPPFLAGS) $(CHECK_CFLAGS)
tests_check_config_LDADD = $(CONFIG_LIBS) $(CHECK_LIBS)
endif

check_PROGRAMS += tests/fuzz/fuzz_config
tests_fuzz_fuzz_config_SOURCES = tests/fuzz/fuzz_config.c
tests_fuzz_fuzz_config_LDADD = $(CONFIG_LIBS)
if FUZZING
tests_fuzz_fuzz_config_LDFLAGS = $(AM_LDFLAGS) -fsanitize=fuzzer
else
tests_fuzz_fuzz_config_SOURCES += tests/fuzz/replay.c
endif
endif
EXTRA_DIST += tests/fuzz/corpus/config
if DAEMON
TESTS += tests/e2e/init.sh tests/e2e/unit_file.sh
endif
EXTRA_DIST += tests/e2e/init.sh tests/e2e/unit_file.sh
