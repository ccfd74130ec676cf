if DAEMON
if HAVE_CHECK
check_PROGRAMS += tests/check_config
tests_check_config_SOURCES = tests/check_config.c
tests_check_config_CPPFLAGS = $(AM_CPPFLAGS) $(CHECK_CFLAGS)
tests_check_config_LDADD = $(CONFIG_LIBS) $(CHECK_LIBS)
endif
endif
