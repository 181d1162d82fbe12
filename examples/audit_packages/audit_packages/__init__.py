"""A durable audit: are the installed files of an environment still what their RECORD files say?"""
