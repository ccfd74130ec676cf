if HAVE_CHECK
check_PROGRAMS += tests/check_codec tests/check_mix tests/check_topology
tests_check_codec_SOURCES = tests/check_codec.c
tests_check_codec_CPPFLAGS = $(AM_CPPFLAGS) $(CHECK_CFLAGS)
tests_check_codec_LDADD = $(GOSSIP_LIBS) $(CHECK_LIBS)
tests_check_mix_SOURCES = tests/check_mix.c
tests_check_mix_CPPFLAGS = $(AM_CPPFLAGS) $(CHECK_CFLAGS)
tests_check_mix_LDADD = $(GOSSIP_LIBS) $(CHECK_LIBS)
tests_check_topology_SOURCES = tests/check_topology.c
tests_check_topology_CPPFLAGS = $(AM_CPPFLAGS) $(CHECK_CFLAGS)
tests_check_topology_LDADD = $(GOSSIP_LIBS) $(CHECK_LIBS)
endif
