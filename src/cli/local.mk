bin_PROGRAMS += sakiori
sakiori_SOURCES = \
	%D%/sakiori.c \
	%D%/cli.h %D%/cli.c \
	%D%/cmd_tokenize.c \
	# end
sakiori_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
if DAEMON
sakiori_SOURCES += \
	%D%/daemon_commands.c \
	# end
# What the commands use, each archive before those it needs.
sakiori_LDADD = libtext.a $(PCRE2_LIBS) $(FORMATS_LIBS)
else
sakiori_SOURCES += \
	%D%/no_daemon_commands.c \
	# end
sakiori_LDADD = libtext.a $(PCRE2_LIBS) $(FORMATS_LIBS)
endif
