"""One reader for each subject in ``programs/``: decodes its maps into series and kernel events, once a tick."""
