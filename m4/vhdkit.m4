dnl SPDX-License-Identifier: LGPL-2.1-or-later

dnl VHDKIT_MISSING(WHAT, FOR, PACKAGE)
AC_DEFUN([VHDKIT_MISSING], [
	missing_text="$missing_text
  $1: for $2 (Debian, Ubuntu: $3)"
	missing_packages="$missing_packages $3"
])

dnl VHDKIT_REQUIRE_PROGRAM(PATH-FOUND, NAME, FOR, PACKAGE)
AC_DEFUN([VHDKIT_REQUIRE_PROGRAM], [
	AS_IF([test -z "$1"], [VHDKIT_MISSING([$2], [$3], [$4])])
])

dnl VHDKIT_REQUIRE_MODULE(VARIABLE, MODULES, FOR, PACKAGE)
AC_DEFUN([VHDKIT_REQUIRE_MODULE], [
	PKG_CHECK_MODULES([$1], [$2], [], [VHDKIT_MISSING([$2], [$3], [$4])])
])

AC_DEFUN([VHDKIT_REPORT_MISSING], [
	AS_IF([test -n "$missing_text"], [AC_MSG_ERROR([missing:$missing_text

On Debian and Ubuntu:  apt-get install$missing_packages
(or ./bootstrap build, which does that)])])
])

dnl VHDKIT_LINKS_WITH(FLAGS, THEN, ELSE)
AC_DEFUN([VHDKIT_LINKS_WITH], [
	AC_MSG_CHECKING([whether $CC links with $1])
	vhdkit_saved_CFLAGS=$CFLAGS
	CFLAGS="$CFLAGS $1"
	AC_LINK_IFELSE([AC_LANG_PROGRAM()], [vhdkit_links=yes], [vhdkit_links=no])
	CFLAGS=$vhdkit_saved_CFLAGS
	AC_MSG_RESULT([$vhdkit_links])
	AS_IF([test "x$vhdkit_links" = xyes], [$2], [$3])
])

dnl VHDKIT_WARNINGS(FLAGS): those that the compiler knows go to WARN_CFLAGS.
AC_DEFUN([VHDKIT_WARNINGS], [
	WARN_CFLAGS=
	for vhdkit_flag in m4_normalize([$1]); do
		AC_MSG_CHECKING([whether $CC knows $vhdkit_flag])
		vhdkit_saved_CFLAGS=$CFLAGS
		# Both compilers take an unknown -Wno-x in silence, so -Wx is what is asked.
		CFLAGS="$CFLAGS -Werror $(AS_ECHO(["$vhdkit_flag"]) | sed 's/^-Wno-/-W/')"
		AC_COMPILE_IFELSE([AC_LANG_PROGRAM()], [vhdkit_known=yes], [vhdkit_known=no])
		CFLAGS=$vhdkit_saved_CFLAGS
		AC_MSG_RESULT([$vhdkit_known])
		AS_IF([test "x$vhdkit_known" = xyes], [AS_VAR_APPEND([WARN_CFLAGS], [" $vhdkit_flag"])])
	done
])
