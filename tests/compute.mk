if HAVE_CHECK
compute_fixture = tests/ops/fixture.h tests/ops/fixture.c
compute_test_cppflags = $(AM_CPPFLAGS) -I$(top_srcdir)/tests $(CHECK_CFLAGS)
compute_test_ldadd = $(COMPUTE_LIBS) $(CHECK_LIBS) -lm

check_PROGRAMS += tests/ops/check_quantize
tests_ops_check_quantize_SOURCES = tests/ops/check_quantize.c $(compute_fixture)
tests_ops_check_quantize_CPPFLAGS = $(compute_test_cppflags)
tests_ops_check_quantize_LDADD = $(compute_test_ldadd)
endif
