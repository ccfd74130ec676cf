sakiorid_unit = %D%/sakiorid.service
EXTRA_DIST += %D%/sakiorid.service.in
if DAEMON
CLEANFILES += $(sakiorid_unit)
noinst_DATA += $(sakiorid_unit)
# At make time, so that ${prefix} is expanded.
$(sakiorid_unit): %D%/sakiorid.service.in Makefile
	@$(MKDIR_P) $(@D)
	$(AM_V_GEN)sed -e 's|@sbindir[@]|$(sbindir)|g' $(srcdir)/%D%/sakiorid.service.in >$@
if SYSTEMD
systemdsystemunit_DATA = $(sakiorid_unit)
sysusersdir = $(prefix)/lib/sysusers.d
dist_sysusers_DATA = %D%/sysusers.d/sakiori.conf
tmpfilesdir = $(prefix)/lib/tmpfiles.d
dist_tmpfiles_DATA = %D%/tmpfiles.d/sakiori.conf
else
EXTRA_DIST += %D%/sysusers.d/sakiori.conf %D%/tmpfiles.d/sakiori.conf
endif
endif
