if HAVE_CHECK
check_PROGRAMS += tests/check_base
tests_check_base_SOURCES = tests/check_base.c
tests_check_base_CPPFLAGS = $(AM_CPPFLAGS) $(CHECK_CFLAGS) $(SODIUM_CFLAGS)
tests_check_base_LDADD = $(BASE_LIBS) $(CHECK_LIBS) -lm
endif
