if HAVE_CHECK
check_PROGRAMS += tests/check_round
tests_check_round_SOURCES = tests/check_round.c tests/sim/round_world.c tests/sim/round_world.h
tests_check_round_CPPFLAGS = $(AM_CPPFLAGS) $(CHECK_CFLAGS) -I$(top_srcdir)/tests
tests_check_round_LDADD = $(GOSSIP_LIBS) $(CHECK_LIBS) -lm
if DAEMON
check_PROGRAMS += tests/check_site
tests_check_site_SOURCES = tests/check_site.c
tests_check_site_CPPFLAGS = $(AM_CPPFLAGS) $(CHECK_CFLAGS)
tests_check_site_LDADD = libsim.a libsite.a libgossip.a $(NET_LIBS) libcompute.a $(BASE_LIBS) $(CHECK_LIBS) -lm
SIM_TESTS += tests/sim/check_sim.sh
endif
endif
EXTRA_DIST += tests/sim/check_sim.sh
