"""Back ends: ways to get volumes of a scan, each leaving the same tables.

==============  ====================================================================================================
``registry``    which there are, what each reads and needs; the embedded one is :mod:`analysis.segment`'s own
``suites``      where FreeSurfer and FSL are found: configuration, environment, module, container; version, licence
``commands``    their command lines: nipype's interfaces where it has them, typed command lines of its kind elsewhere
``outputs``     their files read and checked: presence, grid, finite and non-zero volumes; exit codes prove nothing
``subjects``    FreeSurfer subjects that somebody else made: validated, imported, never resumed
``work``        one scan after the other through one of them
==============  ====================================================================================================
"""
