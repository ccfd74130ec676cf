if HAVE_CHECK
if DAEMON
NET_TEST_CPPFLAGS = $(AM_CPPFLAGS) $(CHECK_CFLAGS)
NET_TEST_LIBS = $(NET_LIBS) $(CHECK_LIBS) -lm

check_PROGRAMS += tests/check_noise
tests_check_noise_SOURCES = tests/check_noise.c
tests_check_noise_CPPFLAGS = $(NET_TEST_CPPFLAGS)
tests_check_noise_LDADD = $(NET_TEST_LIBS)

check_PROGRAMS += tests/check_identity
tests_check_identity_SOURCES = tests/check_identity.c
tests_check_identity_CPPFLAGS = $(NET_TEST_CPPFLAGS)
tests_check_identity_LDADD = $(NET_TEST_LIBS)

check_PROGRAMS += tests/check_wire
tests_check_wire_SOURCES = tests/check_wire.c
tests_check_wire_CPPFLAGS = $(NET_TEST_CPPFLAGS)
tests_check_wire_LDADD = $(NET_TEST_LIBS)

check_PROGRAMS += tests/check_peer
tests_check_peer_SOURCES = tests/check_peer.c tests/check_peer_up.c tests/lib/two_sites.c tests/lib/two_sites.h
tests_check_peer_CPPFLAGS = $(NET_TEST_CPPFLAGS) -I$(top_srcdir)/tests
tests_check_peer_LDADD = $(NET_TEST_LIBS)

check_PROGRAMS += tests/check_link
tests_check_link_SOURCES = tests/check_link.c
tests_check_link_CPPFLAGS = $(NET_TEST_CPPFLAGS) $(UV_CFLAGS)
tests_check_link_LDADD = $(NET_TEST_LIBS)
THREADED_TESTS += tests/check_link
endif
endif

if DAEMON
check_PROGRAMS += tests/fuzz/fuzz_wire tests/fuzz/fuzz_peer
tests_fuzz_fuzz_wire_SOURCES = tests/fuzz/fuzz_wire.c
tests_fuzz_fuzz_wire_LDADD = $(NET_LIBS) -lm
tests_fuzz_fuzz_peer_SOURCES = tests/fuzz/fuzz_peer.c
tests_fuzz_fuzz_peer_LDADD = $(NET_LIBS) -lm
if FUZZING
tests_fuzz_fuzz_wire_LDFLAGS = $(AM_LDFLAGS) -fsanitize=fuzzer
tests_fuzz_fuzz_peer_LDFLAGS = $(AM_LDFLAGS) -fsanitize=fuzzer
else
tests_fuzz_fuzz_wire_SOURCES += tests/fuzz/replay.c
tests_fuzz_fuzz_peer_SOURCES += tests/fuzz/replay.c
endif
endif
EXTRA_DIST += \
	tests/fuzz/corpus/peer \
	tests/fuzz/corpus/wire \
	tests/golden/make_noise_vectors.py \
	tests/golden/noise_cacophony.txt \
	tests/golden/noise_python.txt \
	# end
