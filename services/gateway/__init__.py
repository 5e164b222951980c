"""The only public door: it adds access and limits to the other services' routes.

Owns organisations, projects and API keys. Hears nothing, says nothing.
"""
