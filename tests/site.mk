if HAVE_CHECK
check_PROGRAMS += tests/check_round
tests_check_round_SOURCES = tests/check_round.c tests/sim/round_world.c tests/sim/round_world.h \
	tests/sim/round_world_private.h tests/sim/round_member.c tests/sim/liar.c tests/sim/liar.h
tests_check_round_CPPFLAGS = $(AM_CPPFLAGS) $(CHECK_CFLAGS) -I$(top_srcdir)/tests
tests_check_round_LDADD = $(GOSSIP_LIBS) $(CHECK_LIBS) -lm
if DAEMON
check_PROGRAMS += tests/check_site tests/check_trouble tests/check_hostile
tests_check_site_SOURCES = tests/check_site.c
tests_check_site_CPPFLAGS = $(AM_CPPFLAGS) $(CHECK_CFLAGS)
tests_check_site_LDADD = libsim.a libsite.a libgossip.a $(NET_LIBS) libcompute.a $(BASE_LIBS) $(CHECK_LIBS) -lm
tests_check_trouble_SOURCES = tests/check_trouble.c
tests_check_trouble_CPPFLAGS = $(AM_CPPFLAGS) $(CHECK_CFLAGS)
tests_check_trouble_LDADD = $(tests_check_site_LDADD)
tests_check_hostile_SOURCES = tests/check_hostile.c
tests_check_hostile_CPPFLAGS = $(AM_CPPFLAGS) $(CHECK_CFLAGS)
tests_check_hostile_LDADD = $(tests_check_site_LDADD)
SIM_TESTS += tests/sim/check_sim.sh
endif
endif
EXTRA_DIST += tests/sim/check_sim.sh
