if DAEMON
noinst_LIBRARIES += libconf.a
libconf_a_SOURCES = \
	%D%/config.h %D%/config.c \
	%D%/check.h %D%/check.c \
	%D%/keys.h %D%/keys.c \
	%D%/scan.h %D%/scan.c \
	%D%/units.h %D%/units.c \
	%D%/write.c \
	# end
libconf_a_CPPFLAGS = $(AM_CPPFLAGS) $(LIBCONFIG_CFLAGS)
endif
