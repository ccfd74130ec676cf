if HAVE_CHECK
compute_fixture = tests/ops/fixture.h tests/ops/fixture.c
compute_test_cppflags = $(AM_CPPFLAGS) -I$(top_srcdir)/tests $(CHECK_CFLAGS)
compute_test_ldadd = $(COMPUTE_LIBS) $(CHECK_LIBS) -lm

check_PROGRAMS += tests/ops/check_quantize
tests_ops_check_quantize_SOURCES = tests/ops/check_quantize.c $(compute_fixture)
tests_ops_check_quantize_CPPFLAGS = $(compute_test_cppflags)
tests_ops_check_quantize_LDADD = $(compute_test_ldadd)

check_PROGRAMS += tests/ops/check_linear
tests_ops_check_linear_SOURCES = tests/ops/check_linear.c $(compute_fixture)
tests_ops_check_linear_CPPFLAGS = $(compute_test_cppflags)
tests_ops_check_linear_LDADD = $(compute_test_ldadd)

check_PROGRAMS += tests/ops/check_dropout
tests_ops_check_dropout_SOURCES = tests/ops/check_dropout.c $(compute_fixture)
tests_ops_check_dropout_CPPFLAGS = $(compute_test_cppflags)
tests_ops_check_dropout_LDADD = $(compute_test_ldadd)

check_PROGRAMS += tests/ops/check_attention
tests_ops_check_attention_SOURCES = tests/ops/check_attention.c $(compute_fixture)
tests_ops_check_attention_CPPFLAGS = $(compute_test_cppflags)
tests_ops_check_attention_LDADD = $(compute_test_ldadd)

check_PROGRAMS += tests/ops/check_weight
tests_ops_check_weight_SOURCES = tests/ops/check_weight.c $(compute_fixture)
tests_ops_check_weight_CPPFLAGS = $(compute_test_cppflags)
tests_ops_check_weight_LDADD = $(compute_test_ldadd)

check_PROGRAMS += tests/ops/check_block
tests_ops_check_block_SOURCES = tests/ops/check_block.c $(compute_fixture)
tests_ops_check_block_CPPFLAGS = $(compute_test_cppflags)
tests_ops_check_block_LDADD = $(compute_test_ldadd)

check_PROGRAMS += tests/ops/check_loss
tests_ops_check_loss_SOURCES = tests/ops/check_loss.c $(compute_fixture)
tests_ops_check_loss_CPPFLAGS = $(compute_test_cppflags)
tests_ops_check_loss_LDADD = $(compute_test_ldadd)

check_PROGRAMS += tests/ops/check_vector
tests_ops_check_vector_SOURCES = tests/ops/check_vector.c $(compute_fixture)
tests_ops_check_vector_CPPFLAGS = $(compute_test_cppflags)
tests_ops_check_vector_LDADD = $(compute_test_ldadd)

TESTS += tests/ops/packed_cpu.sh
tests/ops/packed_cpu.log: tests/gpu/check_gpu_packed$(EXEEXT)
endif
EXTRA_DIST += tests/ops/packed_cpu.sh
